"""Three hosts that share no disk, one to submit from: the workflow, every fault, fewer ranks."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.fault_trials import CALM, FAULTS, Calm, Fault, calm, newest, rank_host, trial
from tests.cluster.cluster import NODES, Cluster, cluster, wait
from tests.cluster.world import why_not
from tests.e2e.workflow import MINI, outputs, records

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, a desk and the servers; skipped where namespaces cannot be made."""
    if reason := why_not():
        pytest.skip(reason)
    with cluster(keep=tmp_path_factory.mktemp("hosts") / "logs") as running:
        yield running


@pytest.fixture(scope="module")
def undisturbed(hosts: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """A training in the store CALM."""
    return calm(hosts, tmp_path_factory.mktemp("calm"))


def test_the_workflow_over_hosts(hosts: Cluster, golden_run: Path, tmp_path: Path) -> None:
    """Every file is the same as on one machine: shards, weights (of two ranks), scores."""
    log = tmp_path / "log"
    assert hosts.submit(log, MINI, "mini").wait(timeout=2400) == 0, log.read_text()[-5000:]
    there = hosts.copied("mini", tmp_path / "there")
    [ranks, *_] = re.findall(r"2 ranks on (10\.77\S+) \(1\), (10\.77\S+) \(1\)", log.read_text())
    assert len({*ranks}) == 2
    parts = [record for record in records(there).values() if record["stage"].endswith(".parts")]
    assert {record["host"] for record in parts} == {*NODES}, "parts are made on every host"
    for path in there.rglob("record.json"):
        assert str(hosts.folder) not in path.read_text(), "no path of a host is in a record"
    assert outputs(there) == outputs(golden_run)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_after_a_fault_bytes_and_points_are_those_of_an_undisturbed_training(
    hosts: Cluster, undisturbed: Calm, fault: Fault, tmp_path: Path
) -> None:
    outcome = trial(hosts, fault, undisturbed, tmp_path)
    assert outcome.right, outcome
    assert outcome.recovered is not None or fault.name == "mlflow", outcome


@pytest.mark.usefixtures("undisturbed")
def test_one_of_two_hosts_goes_and_comes_back(hosts: Cluster, tmp_path: Path) -> None:
    """Training continues with the other, and takes the first in again.

    Ray Train looks for it once a minute, in which one rank makes some 700 steps.
    """
    changed = ("max_steps=4000", "batch_size=64", "resources.min_workers=1", "checkpoint_every=50")
    settings = [f"--set=pretrain.{one}" for one in changed]
    hosts.copy_store(CALM, "elastic", without="pretrain")
    hosts.hosts["two"].power_off()
    wait(lambda: hosts.alive() == 2, "the cluster to miss a node")
    log = tmp_path / "log"
    process = hosts.submit(log, MINI, "elastic", "pretrain", *settings)

    def count(text: str) -> int:
        assert process.poll() is None, log.read_text()[-5000:]
        return log.read_text().count(text)

    wait(lambda: count("2 ranks on ") == 1 and newest(hosts, "elastic") >= 150, "two ranks")
    gone = rank_host(hosts, log)
    hosts.hosts[gone].power_off()
    wait(lambda: count("1 ranks on ") == 1, "one rank")
    at = newest(hosts, "elastic")
    wait(lambda: newest(hosts, "elastic") > at, "its checkpoints")
    hosts.switch_on(gone)
    wait(lambda: count("2 ranks on ") == 2, "two ranks again")
    assert process.wait(timeout=900) == 0, log.read_text()[-5000:]
    hosts.switch_on("two")
    [file] = hosts.copied("elastic", tmp_path / "there").glob("pretrain/*/*/metrics.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(10, 4001, 10)), "a step is lost or doubled"
