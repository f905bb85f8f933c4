"""From books to shards: the same bytes with 1, 2 and 4 workers, and after twenty kills at random; no finished part is redone."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.workflow import Record, gpt1, outputs, records

pytestmark = pytest.mark.slow

TEXT = ROOT / "tests" / "e2e" / "text.yaml"
STAGES = ("ingest", "clean", "split", "vocabulary", "shard")
KILLS = 20
WHILE_STARTING = 5
"""So many of the kills come in the first seconds of a run, the others within LATEST seconds after its cluster is up."""
LATEST = 4.0


def run_text(store: Path, *words: str) -> None:
    ended = gpt1("run", "--file", TEXT, "--store", store, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def killed(store: Path, delay: float, starting: bool) -> bool:
    """`kill -9` the driver of a run `delay` seconds after its start, or after its cluster is up; False when it had ended."""
    command = [sys.executable, "-m", "pipeline.cli", "run", "--file", str(TEXT), "--store", str(store)]
    log = store.parent / "killed.log"
    with log.open("wb") as out:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        while not starting and driver.poll() is None and " on this machine: " not in log.read_text():
            time.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(delay)
        if driver.poll() is not None:
            assert driver.returncode == 0, log.read_text()[-3000:]
            return False
        driver.kill()
        driver.wait()
    return True


def finished(store: Path) -> dict[str, Record]:
    """The records of all finished parts, by the folder they lie in."""
    return {f"{name}/{record['fingerprint']}": record for name, record in records(store, "*.parts").items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """sha256 of every output that is not volatile, of the stages and of their parts, with one worker."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    run_text(store)
    found = outputs(store)
    assert {name.split("/")[0] for name in found} == {*STAGES, *(f"{stage}.parts" for stage in STAGES)}
    return found


@pytest.mark.parametrize("workers", ["two", "four"])
def test_any_number_of_workers_gives_the_same_bytes(workers: str, undisturbed: dict[str, str], tmp_path: Path) -> None:
    run_text(tmp_path / "store", "--profile", workers)
    assert outputs(tmp_path / "store") == undisturbed


def test_twenty_kills_at_random_moments_change_nothing(undisturbed: dict[str, str], tmp_path: Path) -> None:
    seed = int(os.environ.get("GPT1_KILL_SEED", "0"))
    draw = random.Random(seed)
    hits: list[str] = []
    counts: list[int] = []
    stores: list[Path] = []
    redone: list[str] = []
    while len(hits) < KILLS:
        store = tmp_path / f"round {len(stores)}" / "store"
        store.parent.mkdir()
        stores.append(store)
        before: dict[str, Record] = {}
        while len(hits) < KILLS:
            starting = len(hits) % (KILLS // WHILE_STARTING) == 0
            delay = draw.uniform(0, LATEST)
            hit = killed(store, delay, starting)
            after = finished(store)
            redone += [name for name, record in before.items() if after.get(name) != record]
            before = after
            if not hit:
                break
            counts.append(len(after))
            since = "its start" if starting else "its cluster was up"
            hits.append(f"round {len(stores) - 1}: {delay:.1f} s after {since}, with {len(after)} parts finished")
        run_text(store)
        after = finished(store)
        redone += [name for name, record in before.items() if after.get(name) != record]
    print(f"seed {seed}", *hits, sep="\n")
    assert len(hits) == KILLS
    assert not redone, f"finished parts were made again: {redone}"
    assert len(set(counts)) >= 5, f"too few of the kills struck while parts were being made: {hits}"
    for store in stores:
        assert outputs(store) == undisturbed
