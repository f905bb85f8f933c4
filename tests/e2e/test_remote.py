"""The whole workflow on a cluster that shares nothing with us but addresses: PostgreSQL, S3, MLflow, and Ray by `ray start`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.e2e.workflow import MINI, outputs, run_mini
from tests.servers.stack import Stack, stack

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one machine, in a folder."""
    store = tmp_path_factory.mktemp("here") / "store"
    ended = run_mini(store)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return store


def copied(running: Stack, target: Path) -> Path:
    """The store's objects as files."""
    client = s3(running)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="gpt1"):
        for item in page.get("Contents", []):
            file = target / item["Key"]
            file.parent.mkdir(parents=True, exist_ok=True)
            client.download_file("gpt1", item["Key"], str(file))
    return target


def s3(running: Stack) -> Any:
    import boto3

    names = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    keys = {key: running.environment[name] for key, name in names.items()}
    return boto3.client("s3", endpoint_url=running.s3, region_name="us-east-1", **keys)


def order(running: Stack, *words: str) -> list[str]:
    return ["submit", "--address", running.ray.address, "--file", str(MINI), "--store", running.store, *words]


def test_submitted_twice_at_once_and_killed_once(cluster: Stack, here: Path, tmp_path: Path) -> None:
    """Two submissions of one order are one job; a submitter that dies after the upload leaves the job at work."""
    command = [sys.executable, "-m", "pipeline.cli", *order(cluster)]
    environment = {**os.environ, **cluster.environment}
    with (tmp_path / "one").open("wb") as one, (tmp_path / "two").open("wb") as two:
        first = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=one, stderr=subprocess.STDOUT)
        second = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=two, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 300
        while "job gpt1-" not in (tmp_path / "one").read_text():
            assert first.poll() is None, (tmp_path / "one").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        first.kill()
        first.wait()
        assert second.wait(timeout=1500) == 0, (tmp_path / "two").read_text()
    jobs = json.loads(cluster.gpt1("jobs", "--address", cluster.ray.address, "--json").stdout)
    assert [job["status"] for job in jobs] == ["SUCCEEDED"]
    assert "19 made, 0 taken as they were, 0 failed" in (tmp_path / "two").read_text()
    told = cluster.gpt1("logs", "--address", cluster.ray.address, jobs[0]["job"])
    assert (told.returncode, "19 made" in told.stdout) == (0, True)
    there = copied(cluster, tmp_path / "copy") / "store"
    assert outputs(there) == outputs(here)
    again = cluster.gpt1(*order(cluster))
    assert (again.returncode, "nothing to run" in again.stdout) == (0, True), again.stdout + again.stderr


def test_mlflow_holds_the_same_runs_and_artifacts(cluster: Stack, here: Path) -> None:
    from mlflow import MlflowClient

    from pipeline.recorder import default_uri

    def seen(uri: str) -> dict[str, tuple[str, dict[str, str], list[str], dict[str, float]]]:
        client = MlflowClient(uri)
        [experiment] = [found for found in client.search_experiments() if found.name == "gpt1"]
        found = {}
        for run in client.search_runs([experiment.experiment_id], max_results=500):
            if run.data.tags["gpt1.kind"] in ("stage", "job"):
                files = [item.path for item in client.list_artifacts(run.info.run_id)]
                files += [item.path for item in client.list_artifacts(run.info.run_id, "outputs")]
                figures = {name: value for name, value in run.data.metrics.items() if name in ("validation_perplexity", "score")}
                found[run.data.tags["gpt1.cell"]] = (run.info.status, run.data.params, sorted(files), figures)
        return found

    assert seen(cluster.mlflow) == seen(default_uri(here))
    client = s3(cluster)
    page = client.list_objects_v2(Bucket="gpt1", Prefix="mlflow/")
    assert any(item["Key"].endswith("record.json") for item in page["Contents"]), "artifacts lie in the bucket"


def test_a_stage_and_a_cell_are_taken_up_from_elsewhere(cluster: Stack, tmp_path: Path) -> None:
    """From an empty folder, with another home, with addresses alone; on this machine, in a Ray of its own."""
    workflow = tmp_path / "mine.yaml"
    workflow.write_text(MINI.read_text().replace("steps: 120", "steps: 140"))
    own = {"HOME": str(tmp_path), "GPT1_CACHE": str(tmp_path / "cache"), "LOGNAME": "somebody", "USER": "somebody"}
    words = ("--file", workflow, "--store", cluster.store)
    said = cluster.gpt1("run", "finetune[task=demo_choice,seed=1]", *words, cwd=tmp_path, **own)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "2 made" in said.stdout, said.stdout
    done = json.loads(cluster.gpt1("plan", *words, "--json", cwd=tmp_path, **own).stdout)
    states = {cell["cell"]: cell["state"] for cell in done["cells"]}
    assert states["pretrain"] == states["finetune[task=demo_choice,seed=1]"] == "done"


def test_what_never_fits_is_said_within_seconds(cluster: Stack) -> None:
    refused = cluster.gpt1(*order(cluster, "--set", "pretrain.resources.gpus=4", "--set", "pretrain.max_lr=1.0e-4"))
    assert refused.returncode == 2
    assert re.search(r"pretrain needs 8 GPUs, the cluster has 0", refused.stdout)


def test_no_secret_is_written_anywhere(cluster: Stack, tmp_path: Path) -> None:
    """Not in the store, MLflow's data base or artifacts, Ray's logs and job records, the servers' logs, or the caches."""
    import urllib.request

    copied(cluster, tmp_path / "bucket")
    dump = subprocess.run(
        [sys.executable, "-c", DUMP, cluster.data_base], capture_output=True, text=True, check=True
    ).stdout
    assert "gpt1.fingerprint" in dump
    (tmp_path / "dump.txt").write_text(dump)
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
    refused = cluster.gpt1(*order(cluster), MLFLOW_TRACKING_URI="http://me:pass@127.0.0.1:1")
    assert (refused.returncode, "MLFLOW_TRACKING_URI holds a secret" in refused.stderr) == (2, True)
    assert "pass@" not in refused.stdout + refused.stderr


DUMP = """
import sys, psycopg2
connection = psycopg2.connect(sys.argv[1].replace("+psycopg2", ""))
with connection.cursor() as cursor:
    cursor.execute("select table_name from information_schema.tables where table_schema = 'public'")
    for (table,) in cursor.fetchall():
        cursor.execute(f'select * from "{table}"')
        for row in cursor.fetchall():
            print(table, row)
"""
