"""The workflow on a cluster that shares nothing with us: PostgreSQL, S3, MLflow, Ray."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import write
from tests.e2e.workflow import MINI, last_steps, outputs, records
from tests.servers.mlflow import recorded, ui
from tests.servers.process import get, wait_until
from tests.servers.stack import Stack, postgres_programs, stack

pytestmark = pytest.mark.slow
CELL = "finetune[task=demo_choice,seed=1]"
LONG = 900.0  # seconds a stage may take to come on a busy machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


def test_the_result_is_that_of_one_machine(
    cluster: Stack, golden_run: Path, tmp_path: Path
) -> None:
    """Submitted twice at once, one submitter killed, another order refused, the job stopped in the
    middle of pre-training, taken up from elsewhere, and ended by the first order again.
    """
    order, address = cluster.submit("--file", MINI), ("--address", cluster.ray.address)
    logs = tmp_path / "first.log", tmp_path / "second.log"
    first, second = (cluster.begin(log, *order) for log in logs)
    wait_until(lambda: "job gpt1-" in logs[0].read_text(), "the submission", first, logs[0])
    first.kill()
    first.wait()
    # Its lease: all of them are taken together.
    wait_until(lambda: cluster.keys("/pretrain/"), "the run", second, logs[1])
    other = cluster.gpt1(*cluster.submit("--file", MINI, "pretrain"))
    assert other.returncode == 3, "held by another run, which it names"
    assert re.search(r"by run \d{8}-\d{6}-\w+ \(process \d+ on \S+,", other.stdout)
    wait_until(lambda: cluster.checkpoint() >= 20, "pre-training", second, logs[1], LONG)
    cluster.s3_process.send_signal(signal.SIGSTOP)  # so that training cannot end before its stop
    [job] = re.findall(r"job (gpt1-\S+)", logs[1].read_text())[:1]
    assert cluster.gpt1("stop", *address, job, "--detach").returncode == 0
    cluster.s3_process.send_signal(signal.SIGCONT)  # for the checkpoint that training makes first
    stopped = cluster.gpt1("stop", *address, job)
    assert (stopped.returncode, stopped.stdout.splitlines()[-1]) == (0, f"job {job}: STOPPED")
    second.wait(timeout=120)
    followed, reached = logs[1].read_text(), cluster.checkpoint()
    assert f"stopped on request after step {reached};" in followed, "it shows the job's output"
    assert reached >= 20
    before = records(cluster.copy(tmp_path / "before", "/record.json"))
    assert "pretrain/pretrain" not in before

    # Pre-training and a cell: as another user, from another home, in a Ray of its own.
    own = write(tmp_path / "home", {"mine.yaml": MINI.read_text()})
    me = {"HOME": str(own), "GPT1_CACHE": str(own / "cache"), "LOGNAME": "other", "USER": "other"}
    words = ("run", "pretrain", CELL, "--file", "mine.yaml", "--store", cluster.store)
    elsewhere = cluster.gpt1(*words, cwd=own, **me)
    assert elsewhere.returncode == 0, elsewhere.stdout + elsewhere.stderr
    assert f"resuming after step {reached} " in elsewhere.stdout
    steps = last_steps(cluster.copy(tmp_path / "steps", "throughput.jsonl"))
    assert min(steps) > reached, "steps done before were done again"

    last = cluster.gpt1(*order)
    assert last.returncode == 0, last.stdout + last.stderr
    there = cluster.copy(tmp_path / "after", "/record.json")
    after = records(there)
    assert {cell: after[cell] for cell in before} == before, "made again"
    made = ("pretrain/pretrain", f"finetune/{CELL}")
    assert [after[cell]["user"] for cell in made] == ["other"] * 2
    jobs = json.loads(cluster.gpt1("jobs", *address, "--json").stdout)
    assert [one["status"] for one in jobs] == ["STOPPED", "FAILED", "SUCCEEDED"]
    assert cluster.gpt1("logs", *address, jobs[2]["job"]).returncode == 0

    assert outputs(there) == outputs(golden_run)
    words = ("plan", "--file", MINI, "--store", cluster.store, "--json")
    cells = json.loads(cluster.gpt1(*words, cwd=tmp_path).stdout)["cells"]
    assert {cell["state"] for cell in cells} == {"done"}
    assert cluster.gpt1("track", "sync", "--store", cluster.store).returncode == 0  # a busy machine
    shown = recorded(cluster.mlflow)
    with ui(golden_run, tmp_path / "log") as uri:
        assert shown == recorded(uri)
    assert shown["pretrain"][-1], "a curve"
    assert any(key.endswith("record.json") for key in cluster.keys("mlflow/"))


def test_what_cannot_run_is_refused_at_once(cluster: Stack) -> None:
    gpus = ("--set", "pretrain.resources.gpus=4", "--set", "pretrain.lr=1.0e-4")
    refused = cluster.gpt1(*cluster.submit("--file", MINI, *gpus))
    assert refused.returncode == 2
    assert "pretrain needs 8 GPUs, but the cluster has 0" in refused.stdout
    secret = {"MLFLOW_TRACKING_URI": "http://me:pass@127.0.0.1:1"}
    refused = cluster.gpt1(*cluster.submit("--file", MINI), **secret)
    assert (refused.returncode, "MLFLOW_TRACKING_URI holds a secret" in refused.stderr) == (2, True)
    assert "pass@" not in refused.stdout + refused.stderr


def test_no_secret_is_written_anywhere(cluster: Stack, tmp_path: Path) -> None:
    """By the tests above: not in the store, MLflow's data base (SQLite's is among the logs), Ray's
    logs and jobs, the servers' logs, the caches.
    """
    cluster.copy(tmp_path / "bucket")
    if found := postgres_programs():
        address = cluster.data_base.replace("+psycopg2", "")
        dump = subprocess.check_output([found / "pg_dump", address])
        assert b"gpt1.fingerprint" in dump, "the runs are in PostgreSQL"
        (tmp_path / "dump").write_bytes(dump)
    jobs = get(f"{cluster.ray.address}/api/jobs/") or b""
    assert b"AWS_ENDPOINT_URL" in jobs
    (tmp_path / "jobs.json").write_bytes(jobs)
    hidden = [secret.encode() for secret in cluster.secrets]
    folders = (tmp_path, cluster.logs, cluster.ray.folder)
    paths = [path for folder in folders for path in folder.rglob("*")]
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    assert [path for path in files if any(one in path.read_bytes() for one in hidden)] == []
    assert len(files) > 100
