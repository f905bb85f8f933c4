"""A run that is asked to end: in each phase, at random moments; and drivers that start together."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from pipeline.store.base import Store
from pipeline.store.lease import Holder, Leases
from tests.conftest import ROOT
from tests.e2e.signaled import SIGNALS
from tests.e2e.workflow import begin, draw_for, records
from tests.pipeline.inline import write_numbers
from tests.pipeline.toy.curve import read_saved
from tests.servers.ray_cluster import Cluster

TRAINING = ROOT / "tests" / "pipeline" / "toy" / "training.yaml"
BOUND = 90.0  # seconds from the signal to the end, on a machine that others use too
Signals = dict[str, list[tuple[str, float]]]


def training(folder: Path, *assignments: str, cluster: Cluster | None = None) -> list[str]:
    """The words that run the small training below `folder`."""
    given = [f"--set={one}" for one in (f"numbers.source={folder}/numbers", *assignments)]
    words = ["run", "--file", str(TRAINING), "--store", str(folder / "store"), *given]
    return [*words, *(("--address", cluster.gcs) if cluster else ())]


def run(words: Sequence[str], signals: Signals, ignored: int = 0) -> tuple[int, str]:
    """Run with these signals; the status, and what is printed. `ignored`: one, as by `nohup`."""
    ignore = partial(signal.signal, ignored, signal.SIG_IGN) if ignored else None
    ended = subprocess.run(
        [sys.executable, "-m", "tests.e2e.signaled", *words], cwd=ROOT, capture_output=True,
        env={**os.environ, SIGNALS: json.dumps(signals)}, text=True, preexec_fn=ignore,
    )  # fmt: skip
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said
    return ended.returncode, said


def unreleased(store: Path) -> list[str]:
    """The leases that were not given back."""
    if not store.exists():
        return []
    objects = Store.at(store).objects
    keys = sorted(entry.key for entry in objects.entries("leases/"))
    last = {key.rpartition("/")[0]: objects.read(key) or b"" for key in keys}
    holders = {job: Holder.from_bytes(data) for job, data in last.items()}
    return [job for job, holder in holders.items() if not holder or not holder.released]


RESUME = "gpt1: interrupted; run the same command to resume\n"
ENDINGS: dict[str, tuple[Signals, int, str]] = {
    "planned": ({"planned": [("SIGTERM", 60)]}, 143, "gpt1: interrupted\n"),
    "connecting": ({"connect": [("SIGHUP", 0)]}, 130, RESUME),
    "in a job": ({"start": [("SIGINT", 0)]}, 130, RESUME),
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_where_nothing_trains_a_run_ends_at_once(
    ending: str, ray_head: Cluster, tmp_path: Path
) -> None:
    signals, status, said = ENDINGS[ending]
    write_numbers(tmp_path / "numbers")
    ended = run(training(tmp_path, "numbers.pause=60", cluster=ray_head), signals)
    assert (ended[0], ended[1].endswith(said)) == (status, True), ended
    assert not records(tmp_path / "store")
    assert unreleased(tmp_path / "store") == []


@pytest.mark.slow
def test_a_training_saves_first_and_a_second_request_does_not_wait(
    ray_head: Cluster, tmp_path: Path
) -> None:
    """Two SIGTERMs at once, as `timeout` sends them, are one request; SIGHUP is no second one."""
    write_numbers(tmp_path / "numbers")
    words = training(tmp_path, "training.steps=100", cluster=ray_head)
    status, said = run(words, {"running": [("SIGTERM", 0), ("SIGTERM", 1.2), ("SIGHUP", 0)]})
    assert (status, "training  stopped on request after step" in said) == (130, True), said
    step = len(read_saved([*(tmp_path / "store").glob("*curve/*/*/saved.json")]))
    # Ignored SIGHUP stays ignored; what comes when all is done changes nothing.
    more: Signals = {"running": [("SIGHUP", 0)], "close": [("SIGTERM", 0)]}
    status, said = run(words, more, ignored=signal.SIGHUP)
    assert (status, f"training  from step {step}\n" in said) == (0, True), said
    deaf = training(tmp_path, "training.deaf=true", "training.steps=900", cluster=ray_head)
    status, said = run(deaf, {"running": [("SIGTERM", 1.2), ("SIGINT", 0)]})
    assert (status, "training  interrupted\n" in said) == (130, True), said
    assert unreleased(tmp_path / "store") == []


def ask(words: Sequence[str], folder: Path, moment: float) -> tuple[int, bool]:
    """Run, and send SIGTERM after `moment` seconds; the status, and whether it still ran then."""
    (log := folder / "log").unlink()
    driver = begin(log, *words)
    time.sleep(moment)
    ran = driver.poll() is None
    driver.terminate()
    status, said = driver.wait(BOUND), log.read_text()
    held = "  trained  " in said or " [1/2] " in said
    wanted = {
        0: held and "2 ran, 0 cached" in said, 143: not held, -15: not held, 130: RESUME in said,
    }  # fmt: skip
    assert wanted.get(status), (status, said)
    assert "Traceback" not in said, said
    assert unreleased(folder / "store") == []
    return status, ran


def ask_often(folder: Path, times: int, draw: random.Random, cluster: Cluster | None) -> list[int]:
    """Ask at random moments of a run, until `times` have heard it; the statuses."""
    write_numbers(folder / "numbers")

    def words(number: int) -> list[str]:
        """All stages run again with another number."""
        return training(folder, f"numbers.add={number}", cluster=cluster)

    for number in range(2):  # the first makes the data base of MLflow, too
        began = time.monotonic()
        assert begin(folder / "log", *words(-number)).wait(BOUND) == 0, folder
    complete, heard, number = time.monotonic() - began, list[int](), 0
    while len(heard) < times:
        number += 1
        status, ran = ask(words(number), folder, draw.uniform(0, complete))
        heard += [status] if ran else []
    return heard


@pytest.mark.chaos
@pytest.mark.parametrize(("times", "at_once"), [(100, 2), (20, 1)])
def test_no_sigterm_is_lost(times: int, at_once: int, ray_head: Cluster, tmp_path: Path) -> None:
    """Of twice 100 runs on one cluster, and of 20 that start Ray themselves."""
    cluster = ray_head if at_once > 1 else None
    names = [f"signals {at_once} {one}" for one in range(at_once)]
    with ThreadPoolExecutor(at_once) as pool:
        each = pool.map(lambda n: ask_often(tmp_path / n, times, draw_for(n), cluster), names)
        ended = Counter(status for statuses in each for status in statuses)
    print(ended)
    assert ended.total() == times * at_once


@pytest.mark.chaos
def test_one_of_two_that_start_together_works(ray_head: Cluster, tmp_path: Path) -> None:
    write_numbers(tmp_path / "numbers")
    for pair in range(10):
        changed = (f"numbers.add={pair}", "training.pause=0.5")
        words, logs = training(tmp_path, *changed, cluster=ray_head), ("log0", "log1")
        both = [begin(tmp_path / f"{pair}-{log}", *words) for log in logs]
        statuses = sorted(driver.wait(BOUND) for driver in both)
        said = [(tmp_path / f"{pair}-{log}").read_text() for log in logs]
        assert statuses == [0, 3], said
        assert sum("2 ran, 0 cached" in text for text in said) == 1, said
        assert unreleased(tmp_path / "store") == []


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
