"""Faults in the middle of pre-training, and how the workflow comes through: for tests and for benchmarks/cluster_faults.py."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.cluster import Cluster
from tests.e2e.workflow import MINI, outputs

STEPS, EVERY, HIT = 1500, 50, 300
"""Updates of the training, between checkpoints, and at the fault."""
ORDER = ("pretrain", "--set", f"pretrain.steps={STEPS}", "--set", f"pretrain.checkpoint_every={EVERY}")
AWAY = 60.0  # seconds that a link or a server is away
BOOT = 10.0  # seconds until a host without power has its supervisor again
PATIENCE = 600.0  # seconds for a training with its fault; undisturbed it takes two minutes
TRIES = 12  # a killed driver's lease takes a minute to run out
HELD = 3  # exit status: another run is at it
CALM = "calm"
Points = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Fault:
    """`strike` returns when it is over, all that was cut or stopped being whole again. It is given the host of a rank."""

    name: str
    what: str
    strike: Callable[[Cluster, str], None]


@dataclass
class Outcome:
    """What came of a training. Times in seconds."""

    fault: str
    statuses: list[int] = field(default_factory=list)
    """Exit statuses of the same command, given until it ended with 0."""
    hit: int = 0
    """Updates in the newest checkpoint when the fault began."""
    recovered: float | None = None
    """From the fault's beginning to the next new checkpoint."""
    seconds: float = 0.0
    """From the first command to the end of the last."""
    trouble: list[str] = field(default_factory=list)
    """What is not as in the calm run."""

    @property
    def right(self) -> bool:
        """Ended, with the bytes and the points of the calm run."""
        return bool(self.statuses) and self.statuses[-1] == 0 and not self.trouble


def lose_power(cluster: Cluster, victim: str) -> None:
    """Connections are not closed: nobody is left to do it."""
    cluster.network.cut(cluster.hosts[victim])
    cluster.hosts[victim].power_off()
    time.sleep(BOOT)
    cluster.network.mend(cluster.hosts[victim])
    cluster.switch_on(victim)


def cut_link(cluster: Cluster, victim: str) -> None:
    cluster.network.cut(cluster.hosts[victim])
    time.sleep(AWAY)
    cluster.network.mend(cluster.hosts[victim])


def stop_mlflow(cluster: Cluster, victim: str) -> None:  # noqa: ARG001
    cluster.stop_mlflow()
    time.sleep(AWAY)
    cluster.start_mlflow()


def pause_s3(cluster: Cluster, victim: str) -> None:  # noqa: ARG001
    cluster.pause_s3()
    time.sleep(AWAY)
    cluster.continue_s3()


def kill_head(cluster: Cluster, victim: str) -> None:  # noqa: ARG001
    lose_power(cluster, "head")


FAULTS = (
    Fault("worker", "a worker host with a rank loses its power, and has its supervisor again after 10 s", lose_power),
    Fault("link", "the link of a worker host with a rank is cut for 60 s", cut_link),
    Fault("mlflow", "the MLflow server is killed, and started again after 60 s", stop_mlflow),
    Fault("s3", "the S3 server is paused for 60 s", pause_s3),
    Fault("head", "the head's host loses its power, and has its supervisor again after 10 s", kill_head),
)


@dataclass(frozen=True)
class Calm:
    """The undisturbed training: its files' sha256, its points, its time."""

    files: Mapping[str, str]
    points: Points
    seconds: float


def calm(cluster: Cluster, folder: Path) -> Calm:
    """Train undisturbed, text stages first."""
    log = folder / "calm.log"
    words = ORDER[1:]
    before = cluster.submit(log, MINI, f"s3://gpt1/{CALM}", "shard", *words)
    assert before.wait(timeout=1500) == 0, log.read_text()[-5000:]
    _set_aside(cluster)
    began = time.monotonic()
    process = cluster.submit(log, MINI, f"s3://gpt1/{CALM}", *ORDER)
    assert process.wait(timeout=1500) == 0, log.read_text()[-5000:]
    seconds = time.monotonic() - began
    return Calm(_files(cluster, CALM, folder), _points_of_the_run(cluster), seconds)


def trial(cluster: Cluster, fault: Fault, calm: Calm, folder: Path) -> Outcome:
    """One training with one fault, in a store that has all but the training. What hangs is trouble; all nodes then start anew."""
    outcome = Outcome(fault.name)
    try:
        _try(cluster, fault, calm, folder, outcome)
    except AssertionError as error:
        outcome.trouble.append(str(error))
        for name in cluster.nodes:
            cluster.hosts[name].power_off()
            cluster.switch_on(name)
    return outcome


def _try(cluster: Cluster, fault: Fault, calm: Calm, folder: Path, outcome: Outcome) -> None:
    cluster.wait_for_nodes(len(cluster.nodes))
    _set_aside(cluster)
    cluster.copy_store(CALM, fault.name, without="pretrain")
    began, log = time.monotonic(), folder / f"fault-{fault.name}.log"

    def give() -> Any:
        return cluster.submit(log, MINI, f"s3://gpt1/{fault.name}", *ORDER)

    process = give()
    cluster.wait(lambda: newest(cluster, fault.name) >= HIT or process.poll() is not None, f"step {HIT}: see {log}", 600, 0.2)
    assert process.poll() is None, log.read_text()[-5000:]
    outcome.hit = newest(cluster, fault.name)
    watcher = threading.Thread(target=_watch, args=(cluster, fault.name, outcome), daemon=True)
    watcher.start()
    fault.strike(cluster, rank_host(cluster, log))
    while True:
        status = process.poll()
        if status is not None:
            outcome.statuses.append(status)
            if status == 0 or len(outcome.statuses) > TRIES:
                break
            if status == HELD:
                time.sleep(10)
            cluster.wait_for_nodes(len(cluster.nodes))
            process = give()
        assert time.monotonic() - began < PATIENCE, log.read_text()[-5000:]
        time.sleep(0.5)
    outcome.seconds = time.monotonic() - began
    if outcome.statuses[-1] == 0:
        outcome.trouble = _trouble(cluster, fault, calm, folder)


def _watch(cluster: Cluster, store: str, outcome: Outcome) -> None:
    """Note when the next new checkpoint is there."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        if newest(cluster, store) > outcome.hit:
            outcome.recovered = time.monotonic() - began
            return
        time.sleep(0.5)


def newest(cluster: Cluster, store: str) -> int:
    """Updates in the newest whole checkpoint of a store; 0 when there is none or the server does not answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    keys: list[str] = []
    with suppress(BotoCoreError, ClientError, OSError):
        keys = cluster.keys(f"{store}/pretrain/")
    return max((int(found[1]) for key in keys if (found := re.search(r"/step-(\d+)/record\.json$", key))), default=0)


def rank_host(cluster: Cluster, log: Path) -> str:
    """A worker host that has a rank, by what the log said last."""
    found = re.findall(r"2 ranks on (\S+) \(1\), (\S+) \(1\)", log.read_text(errors="replace"))
    assert found, f"the log does not say where the ranks are: {log.read_text(errors='replace')[-3000:]}"
    return next(name for name, host in cluster.hosts.items() if name != "head" and host.address in found[-1])


def _files(cluster: Cluster, store: str, folder: Path) -> dict[str, str]:
    return outputs(cluster.copied(store, folder / store))


def _trouble(cluster: Cluster, fault: Fault, calm: Calm, folder: Path) -> list[str]:
    files = _files(cluster, fault.name, folder)
    found = [f"file {name}" for name in _differing(files, calm.files)]
    desk = cluster.hosts["desk"]
    sent = desk.run("python", "-m", "pipeline.cli", "track", "sync", "--store", f"s3://gpt1/{fault.name}")
    found += [f"gpt1 track sync: {sent.stdout}{sent.stderr}"] if sent.returncode else []
    return found + [f"points of {name}" for name in _differing(_points_of_the_run(cluster), calm.points)]


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)]


def _runs(cluster: Cluster) -> tuple[Any, list[Any]]:
    """MLflow's client, and the runs of a training. To be used on the desk's network."""
    from mlflow import MlflowClient

    client = MlflowClient(cluster.mlflow)
    experiment = client.get_experiment_by_name("gpt1")
    found = [] if experiment is None else client.search_runs([experiment.experiment_id], "tags.`gpt1.cell` = 'pretrain'")
    return client, list(found)


def _set_aside(cluster: Cluster) -> None:
    """All trainings here are the same to MLflow, which goes on with a run of the same fingerprint: each must find none."""
    with cluster.hosts["desk"].network():
        client, runs = _runs(cluster)
        for run in runs:
            client.delete_run(run.info.run_id)


def _points_of_the_run(cluster: Cluster) -> Points:
    """The curves of the one MLflow run of a training, but for speeds."""
    with cluster.hosts["desk"].network():
        client, runs = _runs(cluster)
        assert [run.info.status for run in runs] == ["FINISHED"], f"MLflow's runs of the training: {runs}"
        names = [name for name in runs[0].data.metrics if name in ("loss", "lr", "gradient_norm") or "validation" in name]
        histories = {name: client.get_metric_history(runs[0].info.run_id, name) for name in names}
    return {name: sorted((point.step, point.value) for point in history) for name, history in histories.items()}
