"""All servers of a cluster on this machine: PostgreSQL, S3, MLflow, Ray."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.servers.mlflow import mlflow_server
from tests.servers.postgres import postgres, programs
from tests.servers.process import free_port, s3_server
from tests.servers.proxy import proxied
from tests.servers.ray_cluster import Cluster, ray_cluster

BUCKET = "gpt1"


@dataclass(frozen=True)
class Stack:
    """What is running. `environment` is what a client, and every node, needs to find it; secrets stand only there."""

    s3_process: subprocess.Popen[bytes]
    mlflow: str
    data_base: str
    ray: Cluster
    environment: Mapping[str, str]
    logs: Path
    start_mlflow: Callable[[], str]
    """Start MLflow's server again, at its address; `stop_mlflow` has ended it."""
    stop_mlflow: Callable[[], None]
    store: str = f"s3://{BUCKET}/store"
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def gpt1(self, *words: str | Path, timeout: float = 1800, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a user of this cluster, and wait."""
        command, variables = self.command(*words), {**os.environ, **self.environment, "PYTHONPATH": str(ROOT), **more}
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=variables)

    def begin(self, log: Path, *words: str | Path) -> subprocess.Popen[bytes]:
        """Start the command, with its output in a file, and go on."""
        with log.open("wb") as out:
            variables = {**os.environ, **self.environment}
            return subprocess.Popen(self.command(*words), cwd=ROOT, env=variables, stdout=out, stderr=subprocess.STDOUT)

    @staticmethod
    def command(*words: str | Path) -> list[str]:
        return [sys.executable, "-m", "pipeline.cli", *map(str, words)]

    def submit(self, *words: str | Path) -> list[str | Path]:
        """The words of a submission to this cluster, with this store."""
        return ["submit", "--address", self.ray.address, "--store", self.store, *words]

    def s3(self) -> Any:
        """A client of the S3 server."""
        return client(self.environment)

    def keys(self, part: str = "") -> list[str]:
        """The keys of all objects of the bucket that contain `part`."""
        pages = self.s3().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [item["Key"] for page in pages for item in page.get("Contents", []) if part in item["Key"]]

    def checkpoint(self) -> int:
        """The step of the newest whole checkpoint of pre-training; 0 when there is none."""
        whole = [key.split("/")[-2] for key in self.keys("/checkpoints/") if key.endswith("/record.json")]
        return max((int(name.removeprefix("step-")) for name in whole), default=0)

    def copy(self, target: Path, part: str = "") -> Path:
        """The objects whose keys contain `part`, as files; the folder of the store among them."""
        there = self.s3()
        for key in self.keys(part):
            (target / key).parent.mkdir(parents=True, exist_ok=True)
            there.download_file(BUCKET, key, str(target / key))
        return target / self.store.rpartition("/")[2]


@contextmanager
def stack(folder: Path, cpus: int = 2, delay: float = 0.0) -> Iterator[Stack]:
    """Everything, on free ports of 127.0.0.1. Logs, and a client's cache, lie in `folder`. `delay`: seconds to the store and back.

    Where PostgreSQL is not installed MLflow's runs are kept in SQLite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key, planted = secrets.token_hex(12), f"planted-{secrets.token_hex(12)}"
    environment = {
        "AWS_ACCESS_KEY_ID": "gpt1-user", "AWS_SECRET_ACCESS_KEY": key, "AWS_DEFAULT_REGION": "us-east-1",
        "GPT1_PLANTED_SECRET": planted, "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    with ExitStack() as servers:
        sqlite = f"sqlite:///{folder / 'mlflow.db'}"
        there = sqlite if programs() is None else servers.enter_context(postgres(folder / "postgres.log"))
        address, process = servers.enter_context(s3_server(folder / "s3.log"))
        environment["AWS_ENDPOINT_URL"] = servers.enter_context(proxied(address, delay)).address if delay else address
        client(environment).create_bucket(Bucket=BUCKET)
        tracking, port, its = servers.enter_context(ExitStack()), free_port(), dict(environment)

        def start_mlflow() -> str:
            return tracking.enter_context(mlflow_server(folder / "mlflow.log", there, f"s3://{BUCKET}/mlflow", its, port))

        environment |= {"MLFLOW_TRACKING_URI": start_mlflow(), "GPT1_CACHE": str(folder / "cache")}
        node = {**environment, "GPT1_CACHE": str(folder / "node-cache")}
        cluster = servers.enter_context(ray_cluster(folder / "ray.log", node, cpus, folder / "ray"))
        password = () if there.startswith("sqlite") else (there.split(":")[2].partition("@")[0],)
        yield Stack(
            process, environment["MLFLOW_TRACKING_URI"], there, cluster, environment, folder, start_mlflow, tracking.close,
            secrets=(key, planted, *password),
        )  # fmt: skip


def client(environment: Mapping[str, str]) -> Any:
    """A client of an S3 server."""
    import boto3

    return boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"], region_name=environment["AWS_DEFAULT_REGION"],
    )  # fmt: skip
