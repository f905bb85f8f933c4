"""Killed, asked to end, or on other workers: nothing is done twice, the bytes are the same."""

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.e2e.workflow import (
    MINI,
    begin,
    checkpoints,
    copy_without,
    kill_when,
    last_steps,
    outputs,
    records,
)  # fmt: skip
from tests.pipeline.inprocess import gpt1
from tests.servers.process import wait_until
from tests.servers.ray_cluster import Cluster

pytestmark = pytest.mark.slow


@pytest.mark.chaos
def test_killed_three_times_the_result_is_the_same(
    golden_run: Path, ray_head: Cluster, tmp_path: Path
) -> None:
    """`kill -9` of the driver in clean, pretrain and finetune."""
    store = copy_without(golden_run, tmp_path / "store", "clean", "pretrain", "finetune", "export")

    kill_when(store, lambda: len(records(store, "clean.parts")) >= 3)
    parts = records(store, "clean.parts")
    assert not records(store, "clean")

    kill_when(store, lambda: checkpoints(store)[-1:] >= [60])
    clean = records(store, "clean")["clean/clean"]
    # A worker may publish the part it was at after its driver is gone.
    assert clean["parts"]["reused"] >= len(parts) >= 3
    assert clean["parts"]["reused"] + clean["parts"]["made"] == 6
    assert {name: records(store, "clean.parts")[name] for name in parts} == parts
    reached = checkpoints(store)[-1]
    assert not records(store, "pretrain")

    kill_when(store, lambda: bool(records(store, "finetune")))
    done = {cell: record for cell, record in records(store).items() if ".parts/" not in cell}
    assert len(records(store, "finetune")) < 4

    last = gpt1("run", "--file", MINI, "--store", store, cluster=ray_head)
    assert last.status == 0, last.out + last.err
    after = records(store)
    assert {cell: after[cell] for cell in done} == done, "a finished job was made again"
    assert min(last_steps(store)) > reached - 20, "updates were made again"
    assert outputs(store) == outputs(golden_run)


def test_nothing_runs_again_and_a_changed_number_is_named(golden_run: Path) -> None:
    words = ("--file", MINI, "--store", golden_run)
    before = records(golden_run)
    assert gpt1("run", *words).status == 0
    assert records(golden_run) == before
    planned = gpt1("plan", *words, "--set", "pretrain.lr=1e-3", "--json").json()["cells"]
    stale = {cell["cell"]: cell["reasons"] for cell in planned if cell["state"] == "stale"}
    assert stale.pop("pretrain") == ["with.lr: 0.003 -> 0.001"]
    stages = {name.partition("[")[0] for name in stale}
    assert stages == {"finetune", "zero_shot", "transfer", "export", "report"}
    assert all("input pretrain changed" in " ".join(reasons) for reasons in stale.values())


def test_a_checkpoint_first_and_the_same_command_goes_on(
    golden_run: Path, ray_head: Cluster, tmp_path: Path
) -> None:
    """Ctrl-C goes to the process group, as a terminal sends it."""
    store, log = copy_without(golden_run, tmp_path / "store", "pretrain"), tmp_path / "log"
    changed = ("max_steps=400", "checkpoint_every=0", "validate_every=0", "snapshot_every=0")
    settings = [word for setting in changed for word in ("--set", f"pretrain.{setting}")]
    words = ("--file", MINI, "--store", store, *settings)
    driver = begin(log, "run", "pretrain", *words)
    wait_until(lambda: " steps (" in log.read_text(), "training", driver, log)
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=200) == 130
    [reached] = checkpoints(store)
    assert 0 < reached < 400
    assert not list(store.glob("*/*/lease.json"))
    states = gpt1("status", *words, "--json").json()["cells"]
    assert {cell["cell"]: cell["state"] for cell in states}["pretrain"] == "stopped"
    with sqlite3.connect(store / "mlflow.db") as base:
        query = "select status from runs where name = 'pretrain' order by start_time desc"
        assert base.execute(query).fetchone() == ("KILLED",)
    last = gpt1("run", "pretrain", *words, cluster=ray_head)
    assert last.status == 0, last.out + last.err
    assert min(last_steps(store)) > reached


def test_any_number_of_workers_gives_the_same_bytes(
    golden_run: Path, ray_head: Cluster, tmp_path: Path
) -> None:
    """Four workers at once on two cores; the golden run had one for `clean`, elsewhere two."""
    stages = ("ingest", "clean", "split", "vocabulary", "shard")
    placed = [f"{stage}.resources.{at}" for stage in stages for at in ("workers=4", "cpus=0.5")]
    words = [word for setting in placed for word in ("--set", setting)]
    store = tmp_path / "store"
    ended = gpt1("run", "shard", "--file", MINI, "--store", store, *words, cluster=ray_head)
    assert ended.status == 0, ended.out + ended.err
    golden = outputs(golden_run).items()
    of_text = {name: sha for name, sha in golden if name.split("/")[0].split(".")[0] in stages}
    assert outputs(store) == of_text
