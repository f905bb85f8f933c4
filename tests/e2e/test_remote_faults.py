"""Servers that are far away, pause, or are gone for a minute, in the middle of pre-training."""

from __future__ import annotations

import itertools
import json
import re
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.workflow import MINI, outputs
from tests.servers.process import wait_until
from tests.servers.stack import Stack, stack

pytestmark = [pytest.mark.slow, pytest.mark.long]  # seven minutes together
DELAY, PAUSE, AWAY = 0.05, 30.0, 60.0  # seconds
PATIENCE = 900.0  # seconds a stage may take to come on a busy machine
LONG = 1_000_000  # steps


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Its store is 50 ms away."""
    with stack(tmp_path_factory.mktemp("stack"), delay=DELAY) as running:
        yield running


def test_a_store_far_away_that_pauses_changes_nothing(cluster: Stack, golden_run: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run = cluster.begin(log, *cluster.submit("--file", MINI))
    wait_until(lambda: cluster.checkpoint() >= 20, "pre-training", run, log, PATIENCE)
    cluster.s3_process.send_signal(signal.SIGSTOP)
    time.sleep(PAUSE)
    assert run.poll() is None, log.read_text()
    cluster.s3_process.send_signal(signal.SIGCONT)
    assert run.wait(timeout=1200) == 0, log.read_text()
    assert "19 made, 0 taken as they were, 0 failed" in log.read_text()
    assert outputs(cluster.copy(tmp_path, "/record.json")) == outputs(golden_run)


def test_mlflow_away_for_a_minute_stops_nothing_and_then_has_every_point_once(cluster: Stack, tmp_path: Path) -> None:
    """A long training, so that it outlasts the minute; stopped afterwards, and what was not sent yet is sent by `track sync`."""
    log = tmp_path / "log"
    longer = {"steps": LONG, "validate_every": 1000, "snapshot_every": LONG, "checkpoint_every": 100}
    words = [word for name, value in longer.items() for word in ("--set", f"pretrain.{name}={value}")]
    run = cluster.begin(log, *cluster.submit("--file", MINI, *words, "pretrain"))
    wait_until(lambda: cluster.checkpoint() >= 300, "pre-training", run, log, PATIENCE)
    cluster.stop_mlflow()
    gone = time.time()
    time.sleep(AWAY)
    back, reached = time.time(), cluster.checkpoint()
    cluster.start_mlflow()
    wait_until(lambda: cluster.checkpoint() >= reached + 100, "pre-training", run, log, PATIENCE)
    [job] = re.findall(r"job (gpt1-\S+)", log.read_text())[:1]
    assert cluster.gpt1("stop", "--address", cluster.ray.address, job).returncode == 0
    run.wait(timeout=120)
    sent = cluster.gpt1("track", "sync", "--store", cluster.store)
    assert (sent.returncode, ", 0 left" in sent.stdout) == (0, True), sent.stdout + sent.stderr

    steps, times = curve(cluster)
    assert steps == list(range(10, 10 * len(steps) + 1, 10)), "every point once, in order"
    assert times == sorted(times)
    assert steps[-1] >= reached
    inside = [step for step, when in zip(steps, times, strict=True) if gone < when < back]
    assert len(inside) > 10, "trained on, and drawn at the time it was, not when it was sent"
    apart = [(later - when, when) for when, later in itertools.pairwise(times)]
    away, there = ([gap for gap, when in apart if (gone < when < back) is while_away] for while_away in (True, False))
    print(f"ten steps took {statistics.median(away):.2f} s while MLflow was away, {statistics.median(there):.2f} s else (medians)")
    print(json.dumps({"points": len(steps), "of them while away": len(inside), "said": sent.stdout.strip()}))


def curve(running: Stack) -> tuple[list[int], list[float]]:
    """Steps and times (s) of the loss of the longest pre-training, as MLflow tells them."""
    from mlflow import MlflowClient

    client = MlflowClient(running.mlflow)
    [experiment] = [found for found in client.search_experiments() if found.name == "gpt1"]
    runs = client.search_runs([experiment.experiment_id], "tags.`gpt1.cell` = 'pretrain'", max_results=10)
    [run] = [run for run in runs if run.data.params["steps"] == str(LONG)]
    assert run.info.status == "KILLED"
    points = client.get_metric_history(run.info.run_id, "loss")
    return [point.step for point in points], [point.timestamp / 1000 for point in points]
