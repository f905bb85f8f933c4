"""The whole workflow on a cluster that shares nothing with us but addresses: PostgreSQL, S3, MLflow, and Ray by `ray start`.

One story: submitted twice at once, one submitter killed, another order refused, the job stopped in the middle of pre-training,
taken up from elsewhere, and ended by the first order again.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.workflow import MINI, outputs, records
from tests.servers.mlflow import recorded, ui
from tests.servers.postgres import programs
from tests.servers.process import wait_until
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
    """What was said, and what lay in the store when the job had been stopped."""

    followed: str
    other: Ended
    reached: int
    before: dict[str, dict[str, Any]]
    stopped: Ended
    waited: Ended
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
    wait_until(lambda: bool(cluster.keys("/pretrain/")), "the run", second, logs[1])  # its lease: all of them are taken together
    other = cluster.gpt1(*cluster.submit("--file", MINI, "pretrain"))
    wait_until(lambda: cluster.checkpoint() >= 20, "pre-training", second, logs[1], LONG)
    cluster.s3_process.send_signal(signal.SIGSTOP)  # so that training cannot end before it is stopped
    [job] = re.findall(r"job (gpt1-\S+)", logs[1].read_text())[:1]
    stopped = cluster.gpt1("stop", "--detach", "--address", cluster.ray.address, job)
    cluster.s3_process.send_signal(signal.SIGCONT)  # for the checkpoint that training makes before it ends
    waited = cluster.gpt1("stop", "--address", cluster.ray.address, job)
    second.wait(timeout=120)
    reached = cluster.checkpoint()
    before = records(cluster.copy(folder / "before", "/record.json"))
    own = folder / "home"
    own.mkdir()
    (own / "mine.yaml").write_text(MINI.read_text())
    me: Any = {"HOME": str(own), "GPT1_CACHE": str(own / "cache"), "LOGNAME": "somebody", "USER": "somebody"}
    words = ("run", "pretrain", CELL, "--file", "mine.yaml", "--store", cluster.store)
    elsewhere = cluster.gpt1(*words, cwd=own, **me)
    last = cluster.gpt1(*order)
    return Story(logs[1].read_text(), other, reached, before, stopped, waited, elsewhere, last)


def test_two_at_once_are_one_job_and_a_killed_submitter_leaves_it_at_work(cluster: Stack, story: Story) -> None:
    jobs = json.loads(cluster.gpt1("jobs", "--address", cluster.ray.address, "--json").stdout)
    assert [job["status"] for job in jobs] == ["STOPPED", "FAILED", "SUCCEEDED"], "two orders of three gave one job"
    assert jobs[0]["job"] in story.followed
    assert "pretrain" in story.followed, "the second shows the job's output"
    assert (story.stopped.returncode, story.stopped.stdout) == (0, f"job {jobs[0]['job']} is asked to end\n")
    assert (story.waited.returncode, story.waited.stdout.splitlines()[1:]) == (0, [f"job {jobs[0]['job']}: STOPPED"])
    told = cluster.gpt1("logs", "--address", cluster.ray.address, jobs[2]["job"])
    assert (told.returncode, "taken as they were" in told.stdout) == (0, True)


def test_another_order_is_told_who_makes_what_it_wants(story: Story) -> None:
    assert story.other.returncode == 3, story.other.stdout + story.other.stderr
    assert re.search(r"is being made by run \d{8}-\d{6}-\w+ \(process \d+ on \S+, last heard of", story.other.stdout)


def test_pretraining_and_a_cell_go_on_from_elsewhere(cluster: Stack, story: Story, tmp_path: Path) -> None:
    """From an empty folder, as another user with another home, with addresses alone; on this machine, in a Ray of its own."""
    assert story.elsewhere.returncode == 0, story.elsewhere.stdout + story.elsewhere.stderr
    [step] = re.findall(r"resuming after step (\d+)", story.elsewhere.stdout)
    assert int(step) == story.reached >= 20
    assert f"stopped on request after step {step}; a checkpoint is written" in story.followed
    after = records(cluster.copy(tmp_path, "/record.json"))
    assert {cell: after[cell] for cell in story.before} == story.before, "something finished was made again"
    assert "pretrain/pretrain" not in story.before
    for made in ("pretrain/pretrain", f"finetune/{CELL}"):
        assert after[made]["user"] == "somebody"
    [name] = [file["path"] for name, file in after["pretrain/pretrain"]["files"].items() if name == "throughput.jsonl"]
    lines = (cluster.copy(tmp_path, name) / name).read_text().splitlines()
    assert min(json.loads(line)["step"] for line in lines) > story.reached, "steps done before were done again"


def test_the_result_is_that_of_one_machine(cluster: Stack, story: Story, golden_run: Path, tmp_path: Path) -> None:
    assert story.last.returncode == 0, story.last.stdout + story.last.stderr
    assert re.search(r"\d+ made, \d+ taken as they were, 0 failed, 0 left out", story.last.stdout)
    assert outputs(cluster.copy(tmp_path, "/record.json")) == outputs(golden_run)
    done = json.loads(cluster.gpt1("plan", "--file", MINI, "--store", cluster.store, "--json", cwd=tmp_path).stdout)
    assert {cell["state"] for cell in done["cells"]} == {"done"}


def test_mlflow_holds_the_same_runs_and_artifacts(cluster: Stack, story: Story, golden_run: Path, tmp_path: Path) -> None:
    del story
    there = recorded(cluster.mlflow)
    with ui(golden_run, tmp_path / "log") as uri:
        assert there == recorded(uri)
    assert there["pretrain"][-1], "a curve"
    assert any(key.endswith("record.json") for key in cluster.keys("mlflow/")), "artifacts lie in the bucket"


@pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed (Debian: apt install postgresql)")
def test_the_runs_lie_in_postgresql(cluster: Stack, story: Story) -> None:
    del story
    assert cluster.data_base.startswith("postgresql")
    assert "gpt1.fingerprint" in dump(cluster)


def test_what_never_fits_is_said_before_anything_starts(cluster: Stack, story: Story) -> None:
    del story
    words = ("--file", MINI, "--set", "pretrain.resources.gpus=4", "--set", "pretrain.max_lr=1.0e-4")
    refused = cluster.gpt1(*cluster.submit(*words))
    assert refused.returncode == 2
    assert re.search(r"pretrain needs 8 GPUs, the cluster has 0", refused.stdout)


def test_no_secret_is_written_anywhere(cluster: Stack, story: Story, tmp_path: Path) -> None:
    """Not in the store, MLflow's data base or artifacts, Ray's logs and job records, the servers' logs, or the caches."""
    import urllib.request

    del story
    cluster.copy(tmp_path / "bucket")
    (tmp_path / "dump.txt").write_text(dump(cluster))
    jobs = urllib.request.urlopen(f"{cluster.ray.address}/api/jobs/").read()
    assert b"AWS_ENDPOINT_URL" in jobs
    (tmp_path / "jobs.json").write_bytes(jobs)
    hidden = [secret.encode() for secret in cluster.secrets]
    looked, found = 0, []
    for folder in (tmp_path, cluster.logs, cluster.ray.folder):
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                looked += 1
                data = path.read_bytes()
                found += [str(path) for secret in hidden if secret in data]
    assert found == []
    assert looked > 100
    refused = cluster.gpt1(*cluster.submit("--file", MINI), MLFLOW_TRACKING_URI="http://me:pass@127.0.0.1:1")
    assert (refused.returncode, "MLFLOW_TRACKING_URI holds a secret" in refused.stderr) == (2, True)
    assert "pass@" not in refused.stdout + refused.stderr


def dump(running: Stack) -> str:
    """All rows of MLflow's data base, where it is PostgreSQL; SQLite's file lies with the logs."""
    if not running.data_base.startswith("postgresql"):
        return ""
    import psycopg2

    rows = []
    connection = psycopg2.connect(running.data_base.replace("+psycopg2", ""))
    with connection.cursor() as cursor:
        cursor.execute("select table_name from information_schema.tables where table_schema = 'public'")
        for (table,) in cursor.fetchall():
            cursor.execute(f'select * from "{table}"')
            rows += [f"{table} {row}" for row in cursor.fetchall()]
    connection.close()
    return "\n".join(rows)
