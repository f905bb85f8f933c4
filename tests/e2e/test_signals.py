"""Signals at random moments, and drivers that start together (`make chaos`)."""

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.store.base import Store
from pipeline.store.lease import Holder
from tests.chaos_seed import draw_for
from tests.conftest import ROOT
from tests.e2e.workflow import command
from tests.pipeline.inline import write_numbers
from tests.pipeline.test_shutdown import local_run

pytestmark = pytest.mark.chaos
BOUND = 90.0  # seconds from the signal to the end, on a machine that others use too


def start(words: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as out:
        return subprocess.Popen(
            words, cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True
        )


def unreleased(store: Path) -> list[str]:
    """The leases that were not given back."""
    last: dict[str, bytes] = {}
    if store.exists():
        objects = Store.at(store).objects
        for entry in sorted(objects.entries("leases/"), key=lambda entry: entry.key):
            last[entry.key.rpartition("/")[0]] = objects.read(entry.key) or b""
    holders = {job: Holder.from_bytes(data) for job, data in last.items()}
    return [job for job, holder in holders.items() if not holder or not holder.released]


def words_of(folder: Path, local: bool, number: int) -> Sequence[str]:
    """The command that runs all stages again, with another number."""
    words = local_run(folder, f"numbers.add={number}", "training.steps=10")
    return words if local else command(*words[3:])


def ask(folder: Path, local: bool, number: int, moment: float) -> tuple[int, float, bool]:
    """Run the training again with another number, and send SIGTERM after `moment` seconds; the
    status, how long the end took, and whether it was still running then.
    """
    log = folder / "log"
    driver = start(words_of(folder, local, number), log)
    time.sleep(moment)
    ran, asked = driver.poll() is None, time.monotonic()
    driver.terminate()
    status, said = driver.wait(BOUND), log.read_text()
    held = "  trained  " in said or " [1/2] " in said
    wanted = {
        0: held and "2 ran, 0 cached" in said, 143: not held, -15: not held,
        130: "gpt1: interrupted; run the same command to resume" in said,
    }  # fmt: skip
    assert wanted.get(status), (status, said)
    assert "Traceback" not in said, said
    assert unreleased(folder / "store") == []
    return status, time.monotonic() - asked, ran


def ask_often(
    folder: Path, times: int, draw: random.Random, local: bool
) -> list[tuple[int, float]]:
    """Ask at random moments of a run, until `times` have heard it."""
    write_numbers(folder / "numbers")
    for number in range(2):  # the first makes the data base of MLflow, too
        driver = start(words_of(folder, local, -number), folder / "log")
        began = time.monotonic()
        assert driver.wait(BOUND) == 0, (folder / "log").read_text()
    whole, heard, number = time.monotonic() - began, list[tuple[int, float]](), 0
    while len(heard) < times:
        number += 1
        status, took, ran = ask(folder, local, number, draw.uniform(0, whole))
        heard += [(status, took)] if ran else []
    return heard


@pytest.mark.parametrize(("times", "at_once", "local"), [(200, 2, True), (20, 1, False)])
def test_no_sigterm_is_lost(times: int, at_once: int, local: bool, tmp_path: Path) -> None:
    """Of 200 without Ray, and 20 with it."""
    draws = [draw_for(f"signals {local} {one}") for one in range(at_once)]
    folders = [tmp_path / str(one) for one in range(at_once)]
    share = [times // at_once] * at_once
    with ThreadPoolExecutor(at_once) as pool:
        each = list(pool.map(ask_often, folders, share, draws, [local] * at_once))
    ended = [one for some in each for one in some]
    took = sorted(seconds for _, seconds in ended)
    statuses = Counter(status for status, _ in ended)
    print(f"{statuses}, median {took[times // 2]:.1f} s to the end, longest {took[-1]:.1f} s")
    assert len(ended) == times


def test_one_of_two_that_start_together_works(tmp_path: Path) -> None:
    write_numbers(tmp_path / "numbers")
    for pair in range(10):
        words = local_run(tmp_path, f"numbers.add={pair}", "training.pause=0.5")
        both = [start(words, tmp_path / f"log{one}") for one in range(2)]
        statuses = sorted(driver.wait(BOUND) for driver in both)
        said = [(tmp_path / f"log{one}").read_text() for one in range(2)]
        assert statuses == [0, 3], said
        assert sum("2 ran, 0 cached" in text for text in said) == 1, said
        assert unreleased(tmp_path / "store") == []
