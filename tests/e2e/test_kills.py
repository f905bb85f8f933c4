"""Killed, asked to end, or on other workers: the bytes are the same, and none are made twice."""

import os
import re
import signal
import sqlite3
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from gpt1.fault import POINTS, VARIABLE, parse
from pipeline.store.base import Store
from pipeline.store.lease import Leases
from tests.conftest import ROOT, refuses
from tests.e2e.workflow import MINI, begin, checkpoints, copy_without, last_steps, outputs, records
from tests.e2e.workflow import gpt1 as alone
from tests.pipeline.inprocess import gpt1, said
from tests.servers.process import wait_until
from tests.servers.ray_cluster import Cluster


@pytest.mark.slow
def test_a_checkpoint_first(golden_run: Path, ray_head: Cluster, tmp_path: Path) -> None:
    """Then the same command goes on, and nothing is left that `run` started.

    The signals go to the process group, as systemd sends them; that the channel of events died
    before is no matter.
    """
    store, log = copy_without(golden_run, tmp_path / "store", "pretrain"), tmp_path / "log"
    changed = ("max_steps=400", "checkpoint_every=0", "validate_every=0", "snapshot_every=0")
    words = ("--file", MINI, "--store", store, *(f"--set=pretrain.{one}" for one in changed))
    driver = begin(log, "run", "pretrain", *words)
    wait_until(lambda: " steps (" in log.read_text(), "training", driver, log)
    children = psutil.Process(driver.pid).children(recursive=True)
    [channel] = [one for one in children if one.name().startswith("ray::EventChannel")]
    channel.kill()
    os.killpg(driver.pid, signal.SIGTERM)
    os.killpg(driver.pid, signal.SIGHUP)
    assert (driver.wait(timeout=200), "the same command" in log.read_text()) == (130, True)
    assert not psutil.wait_procs(children, timeout=10)[1]
    [reached] = checkpoints(store)
    assert 0 < reached < 400
    assert Leases(Store.at(store), "").held() == {}
    states = gpt1("status", *words, "--json").json()["cells"]
    assert {cell["cell"]: cell["state"] for cell in states}["pretrain"] == "stopped"
    with sqlite3.connect(store / "mlflow.db") as base:
        query = "select status from runs where name = 'pretrain' order by start_time desc"
        assert base.execute(query).fetchone() == ("KILLED",)
    said("run", "pretrain", *words, cluster=ray_head)
    assert min(last_steps(store)) > reached


@pytest.mark.slow
def test_any_number_of_workers(golden_run: Path, ray_head: Cluster, tmp_path: Path) -> None:
    """The bytes are the same.

    Four workers at once on two cores; the golden run had one for `clean`, elsewhere two.
    """
    stages = ("ingest", "clean", "split", "vocabulary", "shard")
    placed = [(stage, at) for stage in stages for at in ("workers=4", "cpus=0.5")]
    words, store = [f"--set={stage}.resources.{at}" for stage, at in placed], tmp_path / "store"
    said("run", "shard", "--file", MINI, "--store", store, *words, cluster=ray_head)
    golden = outputs(golden_run).items()
    of_text = {name: sha for name, sha in golden if name.split("/")[0].split(".")[0] in stages}
    assert outputs(store) == of_text


class Case(NamedTuple):
    """What is to be made, where a process dies, and how the same command ends each time."""

    missing: str
    faults: str
    statuses: tuple[int, ...]


SAVING = "checkpoint.written:1 checkpoint.recorded:1 checkpoint.published:1"
CELLS = "finetune/finetune[task=demo_author,"
CASES = {
    "part": Case("clean", "part.written:2 part.published:3", (0,)),
    "job": Case(CELLS, "train.step:2 job.written:1 job.published:1", (0,)),
    "rank": Case("pretrain", f"{SAVING} train.step:30", (0,)),
    "trainer": Case("pretrain", "trainer.begun:1 trainer.ended:1", (1, 0)),
    "driver": Case(CELLS, "driver.begun:1 driver.between:1", (-9, -9, 0)),
}
"""Parts are tried again by Ray, ranks by Ray Train, jobs by `retries:`, all by the next command."""
RETRIES = ("--set", "finetune.retries=3", "--set", "pretrain.retries=1")


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_killed_at_a_boundary_the_same_command_ends_in_the_same_bytes(
    name: str, golden_run: Path, ray_head: Cluster, tmp_path: Path
) -> None:
    case, finished = CASES[name], {}
    store = copy_without(golden_run, tmp_path / "store", case.missing)
    markers = {word: tmp_path / word.partition(":")[0] for word in case.faults.split()}
    fault = {VARIABLE: ",".join(f"{word}@{marker}" for word, marker in markers.items())}
    words = ("run", "--file", MINI, "--store", store, *RETRIES)
    for status in case.statuses:
        if status < 0:
            ended = alone(*words, **fault).returncode
        else:
            ended = gpt1(*words, cluster=ray_head, **fault).status
        assert ended == status
        after = records(store)
        assert {cell: after[cell] for cell in finished} == finished, "made again"
        finished = after
    assert [word for word, marker in markers.items() if not marker.exists()] == []
    assert outputs(store) == outputs(golden_run)


def test_the_points_of_the_code_are_those_that_can_be_named() -> None:
    found = parse("part.written@/a/b:1@c,job.published:12@/d")
    wanted = ("part.written", 1, Path("/a/b:1@c")), ("job.published", 12, Path("/d"))
    assert found == wanted
    folders = [ROOT / name for name in ("gpt1", "stages", "pipeline")]
    text = "".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))
    assert set(re.findall(r'fault\.point\("(.*)"\)', text)) == {*POINTS}


WRONG = ["", "part.writen@/m", "part.written", "part.written@m", "part.written:0@/m", "@/m,"]


def test_a_value_that_names_no_fault_is_an_error(tmp_path: Path) -> None:
    for value in WRONG:
        refuses(f"^{VARIABLE}: .* is not a fault; expected POINT", parse, value)
    ended = alone("run", "--file", MINI, "--store", tmp_path, **{VARIABLE: WRONG[1]})
    [line] = ended.stderr.splitlines()
    assert (ended.returncode, f"{WRONG[1]!r} is not a fault" in line) == (2, True)
