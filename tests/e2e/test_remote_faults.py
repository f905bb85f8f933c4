"""MLflow is gone for a minute, in the middle of pre-training on a cluster."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.workflow import MINI
from tests.servers.process import wait_until
from tests.servers.stack import Stack, stack

pytestmark = pytest.mark.chaos
AWAY = 60.0  # seconds
PATIENCE = 900.0  # seconds a stage may take to come on a busy machine
LONG = 1_000_000  # steps


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Stack]:
    with stack(tmp_path / "stack") as running:
        yield running


def test_mlflow_away_for_a_minute_stops_nothing_and_then_has_every_point_once(
    cluster: Stack, tmp_path: Path
) -> None:
    """In a training that outlasts the minute and is stopped; `track sync` sends what is left."""
    log = tmp_path / "log"
    every = {"validate_every": 1000, "snapshot_every": LONG, "checkpoint_every": 100}
    settings = {"max_steps": LONG, **every}
    words = [word for key, n in settings.items() for word in ("--set", f"pretrain.{key}={n}")]
    run = cluster.begin(log, *cluster.submit("--file", MINI, *words, "pretrain"))

    def reach(step: int) -> None:
        wait_until(lambda: cluster.checkpoint() >= step, f"step {step}", run, log, PATIENCE)

    reach(300)
    cluster.stop_mlflow()
    gone = time.time()
    time.sleep(AWAY)
    back, reached = time.time(), cluster.checkpoint()
    cluster.start_mlflow()
    reach(reached + 100)
    [job] = re.findall(r"job (gpt1-\S+)", log.read_text())[:1]
    assert cluster.gpt1("stop", "--address", cluster.ray.address, job).returncode == 0
    run.wait(timeout=120)
    sent = cluster.gpt1("track", "sync", "--store", cluster.store)
    assert (sent.returncode, ", 0 left" in sent.stdout) == (0, True), sent.stdout + sent.stderr
    points = curve(cluster)
    steps, times = [step for step, _ in points], [when for _, when in points]
    assert steps == list(range(10, 10 * len(steps) + 1, 10)), "every point once, in order"
    assert times == sorted(times)
    assert steps[-1] >= reached
    inside = [when for when in times if gone < when < back]
    assert len(inside) > 10, "it trained on, and points have the time at which they were made"


def curve(running: Stack) -> list[tuple[int, float]]:
    """Steps and times (s) of the loss of the longest pre-training in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(running.mlflow)
    [experiment] = [found for found in client.search_experiments() if found.name == "gpt1"]
    runs = client.search_runs([experiment.experiment_id], "tags.`gpt1.cell` = 'pretrain'")
    [run] = [run for run in runs if run.data.params["max_steps"] == str(LONG)]
    assert run.info.status == "KILLED"
    points = client.get_metric_history(run.info.run_id, "train/loss")
    return [(point.step, point.timestamp / 1000) for point in points]
