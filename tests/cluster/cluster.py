"""Three hosts with a Ray node each, a fourth from which one submits, and one for the servers (S3, MLflow).

    head 10.77.0.1   one 10.77.0.2   two 10.77.0.3   desk 10.77.0.4   servers 10.77.0.10

They share nothing but the network: the code and the interpreter are the same, as an image's would be. Each Ray node is kept up by
infra/ray/node.sh, the first process of its host.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.host import Host, real_pid
from tests.cluster.network import NET, Network
from tests.cluster.world import World
from tests.conftest import ROOT
from tests.servers.process import PATIENCE, answers

BUCKET = "gpt1"
ADDRESSES = {"head": 1, "one": 2, "two": 3, "desk": 4, "servers": 10}
NODES = ("head", "one", "two")
S3_PORT, MLFLOW_PORT, JOBS_PORT = 9000, 5000, 8265
NODE = ROOT / "infra" / "ray" / "node.sh"
# Small nodes: one CPU each, so that two ranks cannot be on one host.
SIZE = ("--num-cpus=1", "--object-store-memory=100000000")


class Cluster:
    """All hosts of it, running. `logs` lies outside of them."""

    def __init__(self, stack: ExitStack, folder: Path, nodes: tuple[str, ...] = NODES) -> None:
        self.folder, self.logs = folder, folder / "logs"
        self.logs.mkdir()
        at = {name: f"{NET}.{number}" for name, number in ADDRESSES.items()}
        self.s3, self.mlflow = f"http://{at['servers']}:{S3_PORT}", f"http://{at['servers']}:{MLFLOW_PORT}"
        self.jobs = f"http://{at['head']}:{JOBS_PORT}"
        environment = {
            "AWS_ACCESS_KEY_ID": "gpt1", "AWS_SECRET_ACCESS_KEY": "gpt1", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.s3, "MLFLOW_TRACKING_URI": self.mlflow,
        }  # fmt: skip
        world = stack.enter_context(World())
        self.network = Network(world)
        self.hosts = {name: Host(world, name, at[name], folder, environment) for name in (*nodes, "desk", "servers")}
        for host in self.hosts.values():
            self.network.connect(host)
        self.nodes = nodes
        self.start_s3()
        self.start_mlflow()
        for name in nodes:
            self.switch_on(name)
        self.wait_for_nodes(len(nodes))

    def switch_on(self, name: str) -> None:
        """Start a node's host: its first process is the supervisor, as the host's own start would have it."""
        host, head = self.hosts[name], self.hosts["head"].address
        about = {"ADDRESS": host.address, "HEAD": head, "DASHBOARD_HOST": head, "DASHBOARD_PORT": str(JOBS_PORT)}
        part = "head" if name == "head" else "worker"
        host.switch_on(self.logs / f"{name}.log", NODE, part, *SIZE, **about)

    def start_s3(self) -> None:
        """moto's server, with a bucket. What it holds is lost when it ends: it can be paused."""
        import boto3
        from botocore.config import Config

        host, log = self.hosts["servers"], self.logs / "s3.log"
        self._s3 = host.start(log, sys.executable, "-m", "tests.servers.s3", str(S3_PORT), host.address)
        self._wait_for_port(S3_PORT, self._s3, log)
        with self.hosts["desk"].network():
            self.bucket: Any = boto3.resource(
                "s3", endpoint_url=self.s3, region_name="us-east-1", aws_access_key_id="gpt1", aws_secret_access_key="gpt1",
                config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 0}),
            ).create_bucket(Bucket=BUCKET)  # fmt: skip

    def pause_s3(self) -> None:
        """The server keeps its connections and says nothing more."""
        os.kill(real_pid(self._s3), signal.SIGSTOP)

    def continue_s3(self) -> None:
        """It answers again. nsenter has stopped with it, and would never see it end."""
        for pid in (real_pid(self._s3), self._s3.pid):
            os.kill(pid, signal.SIGCONT)

    def start_mlflow(self) -> None:
        """The server of infra/mlflow, with SQLite and the bucket."""
        host, log = self.hosts["servers"], self.logs / "mlflow.log"
        about = {
            "HOST": host.address, "PORT": str(MLFLOW_PORT), "WORKERS": "1", "PYTHON": sys.executable,
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{host.folder}/mlflow.db", "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{host.address}:{MLFLOW_PORT}",
        }  # fmt: skip
        self._mlflow = host.start(log, ROOT / "infra" / "mlflow" / "serve.sh", **about)
        self._wait_for_port(MLFLOW_PORT, self._mlflow, log)

    def stop_mlflow(self) -> None:
        """It and its worker end."""
        server = psutil.Process(real_pid(self._mlflow))
        for process in [server, *server.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._mlflow.wait(timeout=60)

    def submit(self, log: Path, file: Path | str, store: str, *words: str) -> subprocess.Popen[bytes]:
        """`gpt1 submit` from the desk; its output goes to `log`."""
        command = [sys.executable, "-m", "pipeline.cli", "submit", "--address", self.jobs, "--file", file, "--store", store, *words]
        return self.hosts["desk"].start(log, *command)

    def wait_for_nodes(self, number: int) -> None:
        """Until so many nodes are alive in the cluster, and jobs are taken."""
        log = self.logs / "head.log"

        def ready() -> bool:
            return self.alive() >= number

        self.wait(ready, f"{number} nodes: see {log}", PATIENCE)

    def keys(self, prefix: str) -> list[str]:
        """The keys of the bucket below a prefix. OSError or BotoCoreError when the server does not answer within seconds."""
        with self.hosts["desk"].network():
            return [item.key for item in self.bucket.objects.filter(Prefix=prefix)]

    def copied(self, store: str, target: Path) -> Path:
        """A store of the bucket as a folder."""
        with self.hosts["desk"].network():
            for item in self.bucket.objects.filter(Prefix=f"{store}/"):
                file = target / item.key.removeprefix(f"{store}/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(item.get()["Body"].read())
        return target

    def copy_store(self, store: str, other: str, without: str) -> None:
        """Copy a store inside of the bucket, but for one stage's artifacts and for what belongs to runs."""
        with self.hosts["desk"].network():
            for item in self.bucket.objects.filter(Prefix=f"{store}/"):
                stage = item.key.split("/")[1]
                if stage not in (without, "outbox", "beats"):
                    source = {"Bucket": BUCKET, "Key": item.key}
                    self.bucket.Object(item.key.replace(store, other, 1)).copy_from(CopySource=source)

    @staticmethod
    def wait(ready: Callable[[], bool], what: str, patience: float, every: float = 0.5) -> float:
        """Wait; the seconds it took. AssertionError when it takes too long."""
        began = time.monotonic()
        while not ready():
            assert time.monotonic() - began < patience, f"waited {patience:g} s for {what}"
            time.sleep(every)
        return time.monotonic() - began

    def alive(self) -> int:
        """How many nodes the cluster counts; 0 when it does not answer."""
        import json
        import urllib.request

        with suppress(OSError, ValueError), self.hosts["desk"].network():
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"{self.jobs}/api/v0/nodes?detail=false", timeout=10) as answer:
                found = json.load(answer)["data"]["result"]["result"]
            return sum(node["state"] == "ALIVE" for node in found)
        return 0

    def _wait_for_port(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        def ready() -> bool:
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            with self.hosts["desk"].network():
                return answers(port, self.hosts["servers"].address)

        self.wait(ready, f"port {port}: see {log}", PATIENCE, 0.1)


@contextmanager
def cluster(nodes: tuple[str, ...] = NODES, keep: Path | None = None) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts. `keep`: where the logs are copied to in the end."""
    for left in Path("/tmp").glob("g1-*-*"):  # by a maker that was killed; its processes have ended by themselves
        if not psutil.pid_exists(int(left.name.split("-")[1])):
            shutil.rmtree(left, ignore_errors=True)
    # A Unix socket's path may have 107 characters, so the folder is a short one.
    folder = Path(tempfile.mkdtemp(prefix=f"g1-{os.getpid()}-", dir="/tmp"))
    try:
        with ExitStack() as stack:
            try:
                yield Cluster(stack, folder, nodes)
            finally:
                if keep:
                    shutil.copytree(folder / "logs", keep, dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
