"""SIGTERM or Ctrl-C while `gpt1 run` trains: a checkpoint is made first, and the same command goes on from it.

Ctrl-C goes to the whole process group, as a terminal sends it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest

from tests.conftest import ROOT
from tests.e2e.workflow import gpt1, outputs

pytestmark = pytest.mark.slow

WORKFLOW = ROOT / "tests" / "stages" / "pretrain_workflow.yaml"
STEPS = 1500
WORDS = [
    "run", "pretrain", "--file", str(WORKFLOW),
    "--set", f"pretrain.steps={STEPS}",
    *(word for name in ("checkpoint", "validate", "snapshot") for word in ("--set", f"pretrain.{name}_every=0")),
]  # fmt: skip
SAVED = re.compile(r"stopped on request after step (\d+); a checkpoint is written")


def ended(store: Path, *signals: signal.Signals, ranks_stopped: bool = False, words: list[str] = WORDS) -> tuple[int, str]:
    """Exit status and output of a run that gets the signals, two seconds between, once it trains."""
    file = store.parent / "log"
    command = [sys.executable, "-m", "pipeline.cli", *words, "--store", str(store)]
    with file.open("wb") as log:
        run = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def send(one: signal.Signals) -> None:
        (os.killpg if one is signal.SIGINT else os.kill)(run.pid, one)

    deadline = time.monotonic() + 300
    while " steps (" not in file.read_text():
        assert run.poll() is None, file.read_text()
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.05)
    below = psutil.Process(run.pid).children(recursive=True)
    ranks = [process for process in below if "RayTrainWorker" in " ".join(process.cmdline())]
    assert len(ranks) == 2
    for rank in ranks if ranks_stopped else []:
        rank.suspend()
    send(signals[0])
    for one in signals[1:]:
        time.sleep(2)
        assert run.poll() is None
        send(one)
    status = run.wait(timeout=100)
    psutil.wait_procs(below, timeout=10)
    assert not [process for process in below if process.is_running()]
    assert not list(store.glob("*/*/lease.json"))
    return status, file.read_text()


def test_a_checkpoint_first_and_the_same_command_goes_on(tmp_path: Path) -> None:
    store = tmp_path / "store"
    steps = [0]
    for asked in (signal.SIGTERM, signal.SIGINT):
        status, said = ended(store, asked)
        assert status == 130, said
        assert "asked to end: training makes a checkpoint first" in said
        assert "the same command goes on where it was" in said
        *_, step = [int(found) for found in SAVED.findall(said)]  # the one before is the reason to run
        assert steps[-1] < step < STEPS
        assert f"resuming after step {steps[-1]} " in said or steps == [0]
        steps.append(step)
        looked = json.loads(gpt1("status", "--json", "--store", store).stdout)
        states = {cell["cell"]: cell["state"] for cell in looked["cells"]}
        assert (states["shard"], states["pretrain"]) == ("done", "stopped")
    client = mlflow.MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = {run.info.run_name: run.info.status for run in client.search_runs(experiments)}
    assert found["pretrain"] == "KILLED"
    assert found["shard"] == "FINISHED"

    last = gpt1(*WORDS, "--store", store)
    assert last.returncode == 0, last.stdout + last.stderr
    assert f"resuming after step {steps[-1]} " in last.stdout
    undisturbed = gpt1(*WORDS, "--store", tmp_path / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    assert outputs(store) == outputs(tmp_path / "undisturbed")


def test_asked_twice_it_ends_at_once(tmp_path: Path) -> None:
    """The ranks are stopped, so that there is nobody to save anything."""
    status, said = ended(tmp_path / "store", signal.SIGTERM, signal.SIGINT, ranks_stopped=True)
    assert status == 130, said
    assert "asked to end" in said
    assert not SAVED.search(said)
    assert re.search(r"pretrain  interrupted$", said, re.MULTILINE), "it was the second signal, not that nobody answered"


def test_a_training_that_waits_for_its_ranks_is_not_begun_by_the_end_of_another(tmp_path: Path) -> None:
    text = WORKFLOW.read_text().partition("  export:")[0]
    two = tmp_path / "two.yaml"
    two.write_text(text.replace("needs: [shard, vocabulary]", "needs: [shard, vocabulary]\n    matrix: {seed: [0, 1]}"))
    status, said = ended(tmp_path / "store", signal.SIGTERM, words=[word.replace(str(WORKFLOW), str(two)) for word in WORDS])
    assert status == 130, said
    assert len(SAVED.findall(said)) == 1
    assert len(re.findall(r"pretrain\S*  interrupted; nothing there could have saved it", said)) == 1
    assert said.count("2 ranks on ") == 1
