"""Faults in the middle of pre-training, and how long the workflow takes to recover."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.cluster import NODES, Cluster, wait
from tests.e2e.workflow import MINI, outputs

STEPS, EVERY, HIT = 1500, 50, 300
"""Updates of the training, between checkpoints, and at the fault."""
ORDER = ("--set", f"pretrain.max_steps={STEPS}", "--set", f"pretrain.checkpoint_every={EVERY}")
AWAY = 60.0  # seconds that a link or a server is away
BOOT = 10.0  # seconds until a host without power has its supervisor again
PATIENCE = 600.0  # seconds for a training with its fault; undisturbed it takes two minutes
TRIES = 12  # a killed driver's lease takes a minute to run out
HELD = 3  # exit status: another run is at it
CALM = "calm"
Points = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Fault:
    """`strike` gets the host of a rank, and returns when all that was cut or stopped is back."""

    name: str
    what: str
    strike: Callable[[Cluster, str], None]


@dataclass
class StepOutput:
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
        return self.statuses[-1:] == [0] and not self.trouble


def lose_power(cluster: Cluster, victim: str) -> None:
    """Connections are not closed: nothing is left to do it."""
    cluster.network.set_link(cluster.hosts[victim], "down")
    cluster.hosts[victim].power_off()
    time.sleep(BOOT)
    cluster.network.set_link(cluster.hosts[victim], "up")
    cluster.switch_on(victim)


def cut_link(cluster: Cluster, victim: str) -> None:
    cluster.network.set_link(cluster.hosts[victim], "down")
    time.sleep(AWAY)
    cluster.network.set_link(cluster.hosts[victim], "up")


def stop_mlflow(cluster: Cluster, _: str) -> None:
    cluster.stop_mlflow()
    time.sleep(AWAY)
    cluster.start_mlflow()


def pause_s3(cluster: Cluster, _: str) -> None:
    cluster.signal_s3(signal.SIGSTOP)
    time.sleep(AWAY)
    cluster.signal_s3(signal.SIGCONT)


def kill_head(cluster: Cluster, _: str) -> None:
    lose_power(cluster, "head")


SUPERVISED = f"loses its power, and has its supervisor again after {BOOT:g} s"
FAULTS = (
    Fault("worker", f"a worker host with a rank {SUPERVISED}", lose_power),
    Fault("link", f"the link of a worker host with a rank is cut for {AWAY:g} s", cut_link),
    Fault("mlflow", f"the MLflow server is killed, and started {AWAY:g} s later", stop_mlflow),
    Fault("s3", f"the S3 server is paused for {AWAY:g} s", pause_s3),
    Fault("head", f"the head's host {SUPERVISED}", kill_head),
)


@dataclass(frozen=True)
class Calm:
    """The undisturbed training: its files' sha256, its points, its time."""

    files: Mapping[str, str]
    points: Points
    seconds: float


def calm(cluster: Cluster, folder: Path) -> Calm:
    """Train undisturbed, text stages first."""
    log, began = folder / "calm.log", 0.0
    for stage in ("shard", "pretrain"):
        _set_aside(cluster)
        began = time.monotonic()
        process = cluster.submit(log, MINI, CALM, stage, *ORDER)
        assert process.wait(timeout=1500) == 0, log.read_text()[-5000:]
    seconds = time.monotonic() - began
    return Calm(outputs(cluster.copied(CALM, folder / CALM)), _points(cluster), seconds)


def trial(cluster: Cluster, fault: Fault, calm: Calm, folder: Path) -> StepOutput:
    """One training with one fault. What hangs is trouble; all nodes then start again."""
    outcome = StepOutput(fault.name)
    try:
        _try(cluster, fault, calm, folder, outcome)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        outcome.trouble.append(str(error))
        for name in NODES:
            cluster.hosts[name].power_off()
            cluster.switch_on(name)
    return outcome


def _try(cluster: Cluster, fault: Fault, calm: Calm, folder: Path, outcome: StepOutput) -> None:
    cluster.wait_for_nodes()
    _set_aside(cluster)
    cluster.copy_store(CALM, fault.name, without="pretrain")
    began, log = time.monotonic(), folder / f"fault-{fault.name}.log"
    process = cluster.submit(log, MINI, fault.name, "pretrain", *ORDER)
    wait(lambda: newest(cluster, fault.name) >= HIT or process.poll() is not None, f"step {HIT}")
    assert process.poll() is None, log.read_text()[-5000:]
    outcome.hit = newest(cluster, fault.name)
    threading.Thread(target=_watch, args=(cluster, outcome), daemon=True).start()
    fault.strike(cluster, rank_host(cluster, log))
    while True:
        outcome.statuses.append(process.wait(PATIENCE))
        assert time.monotonic() - began < PATIENCE, log.read_text()[-5000:]
        if outcome.statuses[-1] == 0 or len(outcome.statuses) > TRIES:
            break
        time.sleep(10 if outcome.statuses[-1] == HELD else 0)
        cluster.wait_for_nodes()
        process = cluster.submit(log, MINI, fault.name, "pretrain", *ORDER)
    outcome.seconds = time.monotonic() - began
    if outcome.statuses[-1] == 0:
        outcome.trouble = _trouble(cluster, fault, calm, folder)


def _watch(cluster: Cluster, outcome: StepOutput) -> None:
    """Note when the next new checkpoint is there."""
    began = time.monotonic()
    with suppress(AssertionError):
        wait(lambda: newest(cluster, outcome.fault) > outcome.hit, "a checkpoint", PATIENCE)
        outcome.recovered = time.monotonic() - began


def newest(cluster: Cluster, store: str) -> int:
    """Updates in the newest complete checkpoint; 0 without one, or when nothing answers."""
    from botocore.exceptions import BotoCoreError, ClientError

    keys: list[str] = []
    with suppress(BotoCoreError, ClientError, OSError):
        keys = cluster.keys(f"{store}/pretrain/")
    found = [re.search(r"/step-(\d+)/manifest\.json$", key) for key in keys]
    return max((int(match[1]) for match in found if match), default=0)


def rank_host(cluster: Cluster, log: Path) -> str:
    """A worker host that has a rank, by what the log said last."""
    said = log.read_text(errors="replace")
    found = re.findall(r"2 ranks on (\S+) \(1\), (\S+) \(1\)", said)
    assert found, f"the log does not say where the ranks are: {said[-3000:]}"
    return next(name for name in NODES[1:] if cluster.hosts[name].address in found[-1])


def _trouble(cluster: Cluster, fault: Fault, calm: Calm, folder: Path) -> list[str]:
    files = outputs(cluster.copied(fault.name, folder / fault.name))
    store = f"s3://gpt1/{fault.name}"
    words = ("python", "-m", "pipeline.cli", "track", "sync", "--store", store)
    sent = cluster.hosts["desk"].run(*words)
    found = [f"gpt1 track sync: {sent.stdout}{sent.stderr}"] if sent.returncode else []
    compared = (("file", files, calm.files), ("points of", _points(cluster), calm.points))
    for what, ours, theirs in compared:
        names = sorted(ours.keys() | theirs.keys())
        found += [f"{what} {name}" for name in names if ours.get(name) != theirs.get(name)]
    return found


@contextmanager
def _runs(cluster: Cluster) -> Any:
    """MLflow's client, and the runs of a training, on the desk's network."""
    from mlflow import MlflowClient

    with cluster.hosts["desk"].network():
        client = MlflowClient(cluster.mlflow)
        of_gpt1 = client.get_experiment_by_name("gpt1")
        where = "tags.`gpt1.cell` = 'pretrain'"
        yield client, list(client.search_runs([of_gpt1.experiment_id], where) if of_gpt1 else [])


def _set_aside(cluster: Cluster) -> None:
    """All trainings here are one to MLflow, which continues its run: each must find none."""
    with _runs(cluster) as (client, runs):
        for run in runs:
            client.delete_run(run.info.run_id)


def _points(cluster: Cluster) -> Points:
    """The curves of the one MLflow run of a training, but for speeds."""
    with _runs(cluster) as (client, runs):
        assert [run.info.status for run in runs] == ["FINISHED"], f"runs of the training: {runs}"
        kept = re.compile(".*(train/(loss|lr|grad_norm)$|val/)")
        names = [name for name in runs[0].data.metrics if kept.match(name)]
        histories = {name: client.get_metric_history(runs[0].info.run_id, name) for name in names}
    return {
        name: sorted((one.step, one.value) for one in history)
        for name, history in histories.items()
    }
