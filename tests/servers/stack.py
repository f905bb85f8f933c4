"""All servers of a cluster on this machine: PostgreSQL, S3, MLflow, Ray.

`python -m tests.servers.stack` (`make remote-demo`) starts them, submits the demo workflow and says where to look; Ctrl-C ends all.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT
from tests.servers.mlflow import mlflow_server
from tests.servers.postgres import postgres
from tests.servers.process import s3_server
from tests.servers.ray_cluster import Cluster, ray_cluster

BUCKET = "gpt1"


@dataclass(frozen=True)
class Stack:
    """What is running. `environment` is what a client, and every node, needs to find it; secrets stand only there."""

    s3: str
    s3_process: subprocess.Popen[bytes]
    mlflow: str
    data_base: str
    ray: Cluster
    environment: Mapping[str, str]
    logs: Path
    store: str = f"s3://{BUCKET}/store"
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def gpt1(self, *words: str | Path, timeout: float = 1800, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a user of this cluster, and wait."""
        command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
        variables = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT), **more}
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=variables)


@contextmanager
def stack(folder: Path, cpus: int = 2) -> Iterator[Stack]:
    """Everything, on free ports of 127.0.0.1. Logs, and a client's cache, lie in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    key, planted = secrets.token_hex(12), f"planted-{secrets.token_hex(12)}"
    environment = {
        "AWS_ACCESS_KEY_ID": "gpt1-user", "AWS_SECRET_ACCESS_KEY": key, "AWS_DEFAULT_REGION": "us-east-1",
        "GPT1_PLANTED_SECRET": planted, "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    with ExitStack() as servers:
        data_base = servers.enter_context(postgres(folder / "postgres.log"))
        environment["AWS_ENDPOINT_URL"], process = servers.enter_context(s3_server(folder / "s3.log"))
        make_bucket(environment)
        mlflow = servers.enter_context(
            mlflow_server(folder / "mlflow.log", data_base, f"s3://{BUCKET}/mlflow", environment)
        )
        environment |= {"MLFLOW_TRACKING_URI": mlflow, "GPT1_CACHE": str(folder / "cache")}
        node = {**environment, "GPT1_CACHE": str(folder / "node-cache")}
        cluster = servers.enter_context(ray_cluster(folder / "ray.log", node, cpus, folder / "ray"))
        hidden = (key, planted, data_base.split(":")[2].partition("@")[0])
        yield Stack(
            environment["AWS_ENDPOINT_URL"], process, mlflow, data_base, cluster, environment, folder, secrets=hidden
        )


def make_bucket(environment: Mapping[str, str]) -> None:
    """The bucket, where there is none yet."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"], region_name=environment["AWS_DEFAULT_REGION"],
    )  # fmt: skip
    client.create_bucket(Bucket=BUCKET)


def main() -> int:
    """The demo, and then wait for Ctrl-C so that one can look around."""
    import tempfile

    profile = sys.argv[1:] or ["--file", "workflow.yaml", "--profile", "demo"]
    with tempfile.TemporaryDirectory(prefix="gpt1-remote-") as name, stack(Path(name), cpus=os.cpu_count() or 2) as running:
        print(f"PostgreSQL, S3 ({running.s3}), MLflow ({running.mlflow}) and Ray ({running.ray.address}) are running", flush=True)
        command = [sys.executable, "-m", "pipeline.cli", "submit", "--address", running.ray.address, "--store", running.store]
        status = subprocess.run([*command, *profile], cwd=ROOT, env={**os.environ, **running.environment}).returncode
        print(f"exit status {status}. Runs: {running.mlflow}   Jobs: {running.ray.address}   Logs: {name}")
        if sys.stdin.isatty():
            input("Enter ends the servers (and with them all that was made) ")
        return status


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
