"""From books to shards: the same bytes with 1, 2 and 4 workers, and after twenty kills at random; no finished part is redone."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.workflow import Record, gpt1, outputs, records

pytestmark = pytest.mark.slow

TEXT = ROOT / "tests" / "e2e" / "text.yaml"
STAGES = ("ingest", "clean", "split", "vocabulary", "shard")
KILLS = 20
SOONEST, LATEST = 3.0, 10.0
"""Seconds after its start at which a driver is killed: while the cluster comes up, and while parts are made."""


def run_text(store: Path, *words: str) -> None:
    ended = gpt1("run", "--file", TEXT, "--store", store, *words)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def killed(store: Path, delay: float) -> bool:
    """Start the run and `kill -9` its driver after `delay` seconds; False when it had already ended, and well."""
    command = [sys.executable, "-m", "pipeline.cli", "run", "--file", str(TEXT), "--store", str(store)]
    log = store.parent / "killed.log"
    with log.open("ab") as out:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
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
    stores: list[Path] = []
    redone: list[str] = []
    while len(hits) < KILLS:
        store = tmp_path / f"round {len(stores)}" / "store"
        store.parent.mkdir()
        stores.append(store)
        before: dict[str, Record] = {}
        while len(hits) < KILLS:
            delay = draw.uniform(SOONEST, LATEST)
            hit = killed(store, delay)
            after = finished(store)
            redone += [name for name, record in before.items() if after.get(name) != record]
            before = after
            if not hit:
                break
            hits.append(f"round {len(stores) - 1}: after {delay:.1f} s with {len(after)} parts finished")
        run_text(store)
        after = finished(store)
        redone += [name for name, record in before.items() if after.get(name) != record]
    print(f"seed {seed}", *hits, sep="\n")
    assert len(hits) == KILLS
    assert not redone, f"finished parts were made again: {redone}"
    # At least some of the kills struck while parts were being made, else this test shows nothing.
    assert len({hit.split(" with ")[1] for hit in hits}) >= 4, hits
    for store in stores:
        assert outputs(store) == undisturbed
