"""Run again, asked to end, or on other workers: nothing is done twice, the bytes are the same."""

import os
import signal
import sqlite3
from pathlib import Path

import psutil
import pytest

from pipeline.store.base import Store
from pipeline.store.lease import Leases
from tests.e2e.workflow import MINI, begin, checkpoints, copy_without, last_steps, outputs, records
from tests.pipeline.inprocess import gpt1, said
from tests.servers.process import wait_until
from tests.servers.ray_cluster import Cluster

pytestmark = pytest.mark.slow


def test_nothing_runs_again_and_a_changed_number_is_named(golden_run: Path) -> None:
    words = ("--file", MINI, "--store", golden_run)
    before = records(golden_run)
    said("run", *words)
    assert records(golden_run) == before
    planned = gpt1("plan", *words, "--set", "pretrain.lr=1e-3", "--json").json()["cells"]
    stale = {cell["cell"]: cell["reasons"] for cell in planned if cell["state"] == "stale"}
    assert stale.pop("pretrain") == ["with.lr: 0.003 -> 0.001"]
    stages = {name.partition("[")[0] for name in stale}
    assert stages == {"finetune", "zero_shot", "transfer", "export", "report"}
    assert all("input pretrain changed" in " ".join(reasons) for reasons in stale.values())


def test_a_checkpoint_first(golden_run: Path, ray_head: Cluster, tmp_path: Path) -> None:
    """Then the same command goes on, and nothing is left that `run` started.

    The signals go to the process group, as systemd sends them; that the channel of events died
    before is no matter.
    """
    store, log = copy_without(golden_run, tmp_path / "store", "pretrain"), tmp_path / "log"
    changed = ("max_steps=400", "checkpoint_every=0", "validate_every=0", "snapshot_every=0")
    settings = [word for setting in changed for word in ("--set", f"pretrain.{setting}")]
    words = ("--file", MINI, "--store", store, *settings)
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


def test_any_number_of_workers(golden_run: Path, ray_head: Cluster, tmp_path: Path) -> None:
    """The bytes are the same.

    Four workers at once on two cores; the golden run had one for `clean`, elsewhere two.
    """
    stages = ("ingest", "clean", "split", "vocabulary", "shard")
    placed = [f"{stage}.resources.{at}" for stage in stages for at in ("workers=4", "cpus=0.5")]
    words = [word for setting in placed for word in ("--set", setting)]
    store = tmp_path / "store"
    said("run", "shard", "--file", MINI, "--store", store, *words, cluster=ray_head)
    golden = outputs(golden_run).items()
    of_text = {name: sha for name, sha in golden if name.split("/")[0].split(".")[0] in stages}
    assert outputs(store) == of_text
