"""A run that is asked to end, on a stand-in for the cluster (`tests/e2e` has the same with Ray)."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pipeline.store.base import Store
from pipeline.store.lease import Holder, Leases
from tests.conftest import ROOT
from tests.e2e.workflow import records
from tests.pipeline.inline import write_numbers
from tests.pipeline.local_cluster import ME, SIGNALS

TRAINING = ROOT / "tests" / "pipeline" / "toy" / "training.yaml"
Signals = dict[str, list[tuple[str, float]]]


def local_run(folder: Path, *assignments: str) -> list[str]:
    """The command that runs the small training below `folder`."""
    given = [f"--set={one}" for one in (f"numbers.source={folder}/numbers", *assignments)]
    words = ["run", "--file", str(TRAINING), "--store", str(folder / "store"), *given]
    return [sys.executable, "-m", ME, *words]


def run(folder: Path, signals: Signals, *assignments: str, ignored: int = 0) -> tuple[int, str]:
    """Run with these signals; the status, and what is printed. `ignored`: one, as by `nohup`."""
    ignore = partial(signal.signal, ignored, signal.SIG_IGN) if ignored else None
    ended = subprocess.run(
        local_run(folder, *assignments), cwd=ROOT, env={**os.environ, SIGNALS: json.dumps(signals)},
        capture_output=True, text=True, preexec_fn=ignore,
    )  # fmt: skip
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said
    store = folder / "store"
    assert not store.exists() or Leases(Store.at(store), "").held() == {}
    return ended.returncode, said


RESUME = "gpt1: interrupted; run the same command to resume\n"
ENDINGS: dict[str, tuple[Signals, int, str]] = {
    "planned": ({"planned": [("SIGTERM", 60)]}, 143, "gpt1: interrupted\n"),
    "connecting": ({"connect": [("SIGHUP", 0)]}, 130, RESUME),
    "in a job": ({"start": [("SIGINT", 0)]}, 130, RESUME),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_where_nothing_trains_a_run_ends_at_once(ending: str, tmp_path: Path) -> None:
    signals, status, said = ENDINGS[ending]
    write_numbers(tmp_path / "numbers")
    ended = run(tmp_path, signals, "numbers.pause=60")
    assert (ended[0], ended[1].endswith(said)) == (status, True), ended
    assert not records(tmp_path / "store")


def test_a_training_saves_first_and_a_second_request_does_not_wait(tmp_path: Path) -> None:
    """Two SIGTERMs at once, as `timeout` sends them, are one request; SIGHUP is no second one."""
    write_numbers(tmp_path / "numbers")
    once: Signals = {"running": [("SIGTERM", 0), ("SIGTERM", 1.2), ("SIGHUP", 0)]}
    status, said = run(tmp_path, once)
    assert (status, "training  stopped; saved a checkpoint\n" in said) == (130, True), said
    [saved] = (tmp_path / "store").glob("*training/*/*/saved")
    # Ignored SIGHUP stays ignored; what comes when all is done changes nothing.
    more: Signals = {"running": [("SIGHUP", 0)], "close": [("SIGTERM", 0)]}
    status, said = run(tmp_path, more, ignored=signal.SIGHUP)
    assert (status, f"training  from step {saved.read_text()}\n" in said) == (0, True), said
    twice: Signals = {"running": [("SIGTERM", 1.2), ("SIGINT", 0)]}
    status, said = run(tmp_path, twice, "training.deaf=true", "training.steps=900")
    assert (status, "training  interrupted\n" in said) == (130, True), said


def python(code: str, *arguments: object) -> int:
    """The status with which Python ends that runs `code` while it takes the signals."""
    start = (
        "import os, sys, time\nfrom signal import *\nfrom pipeline.execution.shutdown import *\n"
        "kill = lambda one: (os.kill(os.getpid(), one), time.sleep(1.1))\n"
        "with GracefulShutdown() as shutdown:\n    shutdown.hold()\n"
    )
    code = start + "".join(f"    {line}\n" for line in code.splitlines())
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode


def test_the_third_request_ends_what_does_not_ask() -> None:
    each = "kill(SIGTERM)\nassert shutdown.asked and not shutdown.forced\nkill(SIGINT)\n"
    assert python(f"{each}assert shutdown.forced\nkill(SIGTERM)\ntime.sleep(60)") == 143
    assert python(f"{each}sys.exit(7)") == 7


def test_who_waits_for_a_lease_can_be_asked_to_end(tmp_path: Path) -> None:
    """Its holder is on another host, and may be alive."""
    there = Holder("other", "elsewhere", "", 1, "token").to_bytes()
    Store.at(tmp_path).objects.create("leases/stage/job/000001.json", there)
    wait = (
        "from pipeline.store.base import Store\nfrom pipeline.store.lease import Leases\n"
        "ask = lambda _: os.kill(os.getpid(), SIGTERM)\n"
        "leases = Leases(Store.at(sys.argv[1]), 'run', ask, shutdown.sleep)\n"
        "try:\n    leases.take(['stage/job', 'stage/another'])\n"
        "except Interrupted:\n    leases.release()\n    sys.exit(7)"
    )
    assert python(wait, tmp_path) == 7
    assert set(Leases(Store.at(tmp_path), "").held()) == {"stage/job"}
