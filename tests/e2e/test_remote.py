"""The workflow on a cluster that shares nothing with us: PostgreSQL, S3, MLflow, Ray.

One story: submitted twice at once, one submitter killed, another order refused, the job stopped in
the middle of pre-training, taken up from elsewhere, and ended by the first order again.
"""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import write
from tests.e2e.workflow import MINI, Record, last_steps, outputs, records
from tests.servers.mlflow import recorded, ui
from tests.servers.postgres import programs
from tests.servers.process import get, wait_until
from tests.servers.stack import Stack, stack

pytestmark = pytest.mark.slow
CELL = "finetune[task=demo_choice,seed=1]"
LONG = 900.0  # seconds a stage may take to come on a busy machine
Ended = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@dataclass(frozen=True)
class Story:
    """How the commands ended, and what the store held when the job had been stopped."""

    followed: str
    other: Ended
    reached: int
    before: dict[str, Record]
    stopped: Ended
    elsewhere: Ended
    last: Ended


@pytest.fixture(scope="module")
def story(cluster: Stack, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    order = cluster.submit("--file", MINI)
    logs = folder / "first.log", folder / "second.log"
    first, second = (cluster.begin(log, *order) for log in logs)
    wait_until(lambda: "job gpt1-" in logs[0].read_text(), "the submission", first, logs[0])
    first.kill()
    first.wait()
    # Its lease: all of them are taken together.
    wait_until(lambda: cluster.keys("/pretrain/"), "the run", second, logs[1])
    other = cluster.gpt1(*cluster.submit("--file", MINI, "pretrain"))
    wait_until(lambda: cluster.checkpoint() >= 20, "pre-training", second, logs[1], LONG)
    cluster.s3_process.send_signal(signal.SIGSTOP)  # so that training cannot end before its stop
    [job] = re.findall(r"job (gpt1-\S+)", logs[1].read_text())[:1]
    stop = ("stop", "--address", cluster.ray.address, job)
    assert cluster.gpt1(*stop, "--detach").returncode == 0
    cluster.s3_process.send_signal(signal.SIGCONT)  # for the checkpoint that training makes first
    stopped = cluster.gpt1(*stop)
    second.wait(timeout=120)
    reached = cluster.checkpoint()
    before = records(cluster.copy(folder / "before", "/record.json"))
    own = write(folder / "home", {"mine.yaml": MINI.read_text()})
    me = {"HOME": str(own), "GPT1_CACHE": str(own / "cache"), "LOGNAME": "other", "USER": "other"}
    words = ("run", "pretrain", CELL, "--file", "mine.yaml", "--store", cluster.store)
    elsewhere = cluster.gpt1(*words, cwd=own, **me)
    last = cluster.gpt1(*order)
    return Story(logs[1].read_text(), other, reached, before, stopped, elsewhere, last)


def test_two_at_once_are_one_job(cluster: Stack, story: Story) -> None:
    """And a killed submitter leaves it at work."""
    address = ("--address", cluster.ray.address)
    jobs = json.loads(cluster.gpt1("jobs", *address, "--json").stdout)
    assert [job["status"] for job in jobs] == ["STOPPED", "FAILED", "SUCCEEDED"]
    assert jobs[0]["job"] in story.followed
    assert "pretrain" in story.followed, "the second shows the job's output"
    stopped = f"job {jobs[0]['job']}: STOPPED"
    assert (story.stopped.returncode, story.stopped.stdout.splitlines()[-1]) == (0, stopped)
    assert cluster.gpt1("logs", *address, jobs[2]["job"]).returncode == 0
    assert story.other.returncode == 3, "held by another run, which it names"
    assert re.search(r"by run \d{8}-\d{6}-\w+ \(process \d+ on \S+,", story.other.stdout)


def test_it_continues_elsewhere(cluster: Stack, story: Story, tmp_path: Path) -> None:
    """Pre-training and a cell.

    As another user, from another home, with addresses alone, in a Ray of its own.
    """
    assert story.elsewhere.returncode == 0, story.elsewhere.stdout + story.elsewhere.stderr
    assert f"resuming after step {story.reached} " in story.elsewhere.stdout
    assert f"stopped on request after step {story.reached};" in story.followed
    assert story.reached >= 20
    after = records(cluster.copy(tmp_path, "/record.json"))
    assert {cell: after[cell] for cell in story.before} == story.before, "made again"
    assert "pretrain/pretrain" not in story.before
    for made in ("pretrain/pretrain", f"finetune/{CELL}"):
        assert after[made]["user"] == "other"
    steps = last_steps(cluster.copy(tmp_path, "throughput.jsonl"))
    assert min(steps) > story.reached, "steps done before were done again"


def test_the_result_is_that_of_one_machine(
    cluster: Stack, story: Story, golden_run: Path, tmp_path: Path
) -> None:
    """The files' bytes, and MLflow's runs and artifacts."""
    assert story.last.returncode == 0, story.last.stdout + story.last.stderr
    assert outputs(cluster.copy(tmp_path, "/record.json")) == outputs(golden_run)
    words = ("plan", "--file", MINI, "--store", cluster.store, "--json")
    cells = json.loads(cluster.gpt1(*words, cwd=tmp_path).stdout)["cells"]
    assert {cell["state"] for cell in cells} == {"done"}
    there = recorded(cluster.mlflow)
    with ui(golden_run, tmp_path / "log") as uri:
        assert there == recorded(uri)
    assert there["pretrain"][-1], "a curve"
    assert any(key.endswith("record.json") for key in cluster.keys("mlflow/"))


@pytest.mark.usefixtures("story")
def test_what_cannot_run_is_refused_at_once(cluster: Stack) -> None:
    gpus = ("--set", "pretrain.resources.gpus=4", "--set", "pretrain.lr=1.0e-4")
    refused = cluster.gpt1(*cluster.submit("--file", MINI, *gpus))
    assert refused.returncode == 2
    assert "pretrain needs 8 GPUs, but the cluster has 0" in refused.stdout
    secret = {"MLFLOW_TRACKING_URI": "http://me:pass@127.0.0.1:1"}
    refused = cluster.gpt1(*cluster.submit("--file", MINI), **secret)
    assert (refused.returncode, "MLFLOW_TRACKING_URI holds a secret" in refused.stderr) == (2, True)
    assert "pass@" not in refused.stdout + refused.stderr


@pytest.mark.usefixtures("story")
def test_no_secret_is_written_anywhere(cluster: Stack, tmp_path: Path) -> None:
    """Not in the store, MLflow's data base, Ray's logs and jobs, the servers' logs, the caches."""
    cluster.copy(tmp_path / "bucket")
    (tmp_path / "dump").write_text(dump(cluster))
    jobs = get(f"{cluster.ray.address}/api/jobs/")
    assert jobs is not None
    assert b"AWS_ENDPOINT_URL" in jobs
    (tmp_path / "jobs.json").write_bytes(jobs)
    hidden = [secret.encode() for secret in cluster.secrets]
    folders = (tmp_path, cluster.logs, cluster.ray.folder)
    paths = [path for folder in folders for path in folder.rglob("*")]
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    found = [path for path in files if any(secret in path.read_bytes() for secret in hidden)]
    assert found == []
    assert len(files) > 100


def dump(running: Stack) -> str:
    """MLflow's data base in PostgreSQL; SQLite's file is among the logs."""
    found = programs()
    if found is None:
        return ""
    address = running.data_base.replace("+psycopg2", "")
    text = subprocess.check_output([found / "pg_dump", address], text=True)
    assert "gpt1.fingerprint" in text, "the runs are in PostgreSQL"
    return text
