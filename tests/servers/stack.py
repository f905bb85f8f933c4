"""All servers of a cluster on this machine: PostgreSQL, S3, MLflow, Ray."""

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.workflow import begin, gpt1
from tests.servers.mlflow import mlflow_server
from tests.servers.process import free_port, running, s3_server
from tests.servers.ray_cluster import Cluster, ray_cluster

BUCKET = "gpt1"
USER = "gpt1"


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres; None where PostgreSQL is not installed."""
    on_path, of_debian = shutil.which("initdb"), Path("/usr/lib/postgresql").glob("*/bin")
    folders = [Path(on_path).resolve().parent] if on_path else sorted(of_debian, reverse=True)
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


@contextmanager
def postgres(found: Path, log: Path) -> Iterator[str]:
    """The server of the folder `found`, with an empty data base; its address with password."""
    port, password = free_port(), secrets.token_hex(12)
    # PostgreSQL refuses to run as root, and its user must be able to enter the folder.
    other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="gpt1-postgres-") as name:
        folder, kept = Path(name), Path(name, "password")
        kept.write_text(password)
        if other:
            for path in (folder, kept):
                shutil.chown(path, "postgres")
        words = ["-D", folder / "data", "-U", USER, "--auth=scram-sha-256", f"--pwfile={kept}"]
        initdb = [*other, found / "initdb", *words, "--no-sync", "--no-instructions"]
        subprocess.run(initdb, check=True, capture_output=True, cwd="/")
        words = ["-D", folder / "data", "-p", port, "-k", folder]
        serve = [*other, found / "postgres", *words, "-c", "listen_addresses=127.0.0.1"]
        create = [found / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", USER, "mlflow"]
        known = {**os.environ, "PGPASSWORD": password}

        def created() -> bool:
            return subprocess.run(create, env=known, capture_output=True).returncode == 0

        with running(serve, log, cwd=Path("/"), ready=created):
            # SQLAlchemy's own choice of a driver is another one, which is not installed.
            yield f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{port}/mlflow"


@dataclass(frozen=True)
class Stack:
    """What is running. `environment` is what a client, and every node, needs to find it."""

    s3_process: subprocess.Popen[bytes]
    mlflow: str
    data_base: str
    ray: Cluster
    environment: Mapping[str, str]
    logs: Path
    store: str = f"s3://{BUCKET}/store"
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def gpt1(self, *words: str | Path, **about: Any) -> subprocess.CompletedProcess[str]:
        """Run the command as a user of this cluster, and wait."""
        return gpt1(*words, **{**self.environment, **about})

    def begin(self, log: Path, *words: str | Path) -> subprocess.Popen[bytes]:
        """Start the command, with its output in a file."""
        return begin(log, *words, **self.environment)

    def submit(self, *words: str | Path) -> list[str | Path]:
        """The words of a submission to this cluster, with this store."""
        return ["submit", "--address", self.ray.address, "--store", self.store, *words]

    def keys(self, part: str = "") -> list[str]:
        """The keys of all objects of the bucket that contain `part`."""
        pages = client(self.environment).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key for key in found if part in key]

    def checkpoint(self) -> int:
        """The step of the newest complete checkpoint of pre-training; 0 when there is none."""
        keys = [key for key in self.keys("/checkpoints/") if key.endswith("/manifest.json")]
        return max((int(key.split("/")[-2].removeprefix("step-")) for key in keys), default=0)

    def copy(self, target: Path, part: str = "") -> Path:
        """The objects whose keys contain `part`, as files; the store's folder among them."""
        there = client(self.environment)
        for key in self.keys(part):
            (target / key).parent.mkdir(parents=True, exist_ok=True)
            there.download_file(BUCKET, key, str(target / key))
        return target / self.store.rpartition("/")[2]


@contextmanager
def stack(folder: Path, cpus: int = 2) -> Iterator[Stack]:
    """Everything, on free ports; logs in `folder`.

    Where PostgreSQL is not installed MLflow's runs are kept in SQLite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key, planted, installed = secrets.token_hex(12), secrets.token_hex(24), postgres_programs()
    base = {
        "AWS_ACCESS_KEY_ID": "gpt1-user", "AWS_SECRET_ACCESS_KEY": key, "RAY_AUTH_MODE": "disabled",
        "AWS_DEFAULT_REGION": "us-east-1", "GPT1_PLANTED_SECRET": planted,
    }  # fmt: skip
    with ExitStack() as servers:
        kept, password = f"sqlite:///{folder / 'mlflow.db'}", ()
        if installed is not None:
            kept = servers.enter_context(postgres(installed, folder / "postgres.log"))
            password = (kept.split(":")[2].partition("@")[0],)
        address, process = servers.enter_context(s3_server(folder / "s3.log"))
        base["AWS_ENDPOINT_URL"] = address
        client(base).create_bucket(Bucket=BUCKET)
        log, artifacts = folder / "mlflow.log", f"s3://{BUCKET}/mlflow"
        mlflow = servers.enter_context(mlflow_server(log, kept, artifacts, base, free_port()))
        ours = {**base, "MLFLOW_TRACKING_URI": mlflow, "GPT1_CACHE": str(folder / "cache")}
        node = {**ours, "GPT1_CACHE": str(folder / "node-cache")}
        ray = servers.enter_context(ray_cluster(folder / "ray.log", node, cpus, folder / "ray"))
        hidden = (key, planted, *password)
        yield Stack(process, mlflow, kept, ray, ours, folder, secrets=hidden)


def client(environment: Mapping[str, str]) -> Any:
    """A client of an S3 server."""
    import boto3

    return boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )  # fmt: skip
