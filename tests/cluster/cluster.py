"""Three hosts with a Ray node each, one from which one submits, and one for S3 and MLflow.

    head 10.77.0.1   one 10.77.0.2   two 10.77.0.3   desk 10.77.0.4   servers 10.77.0.10

They share nothing but the network: code and interpreter are the same, as an image's would be. Each
Ray node is kept up by infra/ray/node.sh, the first process of its host.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.cluster.host import Host
from tests.cluster.network import NET, Network
from tests.cluster.world import World, child_of
from tests.conftest import ROOT
from tests.servers.process import PATIENCE, answers, get, wait_until

BUCKET = "gpt1"
ADDRESSES = {"head": 1, "one": 2, "two": 3, "desk": 4, "servers": 10}
NODES = ("head", "one", "two")
S3_PORT, MLFLOW_PORT, JOBS_PORT = 9000, 5000, 8265
# Small nodes: one CPU each, so that two ranks cannot be on one host.
SIZE = ("--num-cpus=1", "--object-store-memory=100000000")


class Cluster:
    """All hosts of it, running."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.folder, self.logs = folder, folder / "logs"
        self.logs.mkdir()
        at = {name: f"{NET}.{number}" for name, number in ADDRESSES.items()}
        self.s3 = f"http://{at['servers']}:{S3_PORT}"
        self.mlflow = f"http://{at['servers']}:{MLFLOW_PORT}"
        self.jobs = f"http://{at['head']}:{JOBS_PORT}"
        environment = {
            "AWS_ACCESS_KEY_ID": "gpt1", "AWS_SECRET_ACCESS_KEY": "gpt1",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.s3,
            "MLFLOW_TRACKING_URI": self.mlflow,
        }  # fmt: skip
        world = stack.enter_context(World())
        self.network = Network(world)
        self.hosts = {name: Host(world, name, at[name], folder, environment) for name in ADDRESSES}
        for host in self.hosts.values():
            self.network.connect(host)
        self.start_s3()
        self.start_mlflow()
        for name in NODES:
            self.switch_on(name)
        self.wait_for_nodes()

    def switch_on(self, name: str) -> None:
        """Start a node's host: its first process is the supervisor."""
        host, head = self.hosts[name], self.hosts["head"].address
        about = {"DASHBOARD_HOST": head, "DASHBOARD_PORT": str(JOBS_PORT)}
        words = (ROOT / "infra" / "ray" / "node.sh", "head" if name == "head" else "worker", *SIZE)
        log = self.logs / f"{name}.log"
        host.switch_on(log, *words, ADDRESS=host.address, HEAD=head, **about)

    def start_s3(self) -> None:
        """moto's server, with a bucket. What it holds is lost when it ends: it can be paused."""
        import boto3
        from botocore.config import Config

        host, log = self.hosts["servers"], self.logs / "s3.log"
        words = (sys.executable, "-m", "tests.servers.s3", str(S3_PORT), host.address)
        self._s3 = host.start(log, *words)
        self._wait_for_port(S3_PORT, self._s3)
        keys = {"aws_access_key_id": "gpt1", "aws_secret_access_key": "gpt1"}
        brief = Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 0})
        with self.hosts["desk"].network():
            self.bucket: Any = boto3.resource(
                "s3", endpoint_url=self.s3, region_name="us-east-1", config=brief, **keys
            ).create_bucket(Bucket=BUCKET)

    def signal_s3(self, one: signal.Signals) -> None:
        """SIGSTOP: it keeps its connections and is silent; SIGCONT: it answers again."""
        for pid in (child_of(self._s3), *([self._s3.pid] if one is signal.SIGCONT else [])):
            os.kill(pid, one)  # nsenter has stopped with it, and would never see it end

    def start_mlflow(self) -> None:
        """The server of infra/mlflow, with SQLite and the bucket."""
        host = self.hosts["servers"]
        about = {
            "HOST": host.address, "PORT": str(MLFLOW_PORT), "WORKERS": "1",
            "PYTHON": sys.executable, "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{host.folder}/mlflow.db",
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{host.address}:{MLFLOW_PORT}",
        }  # fmt: skip
        script = ROOT / "infra" / "mlflow" / "serve.sh"
        self._mlflow = host.start(self.logs / "mlflow.log", script, **about)
        self._wait_for_port(MLFLOW_PORT, self._mlflow)

    def stop_mlflow(self) -> None:
        """It and its worker end."""
        server = psutil.Process(child_of(self._mlflow))
        for process in [server, *server.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._mlflow.wait(timeout=60)

    def submit(
        self, log: Path, file: Path | str, store: str, *words: str
    ) -> subprocess.Popen[bytes]:
        """`gpt1 submit` from the desk; its output goes to `log`."""
        command = (sys.executable, "-m", "pipeline.cli", "submit", "--address", self.jobs)
        place = ("--file", file, "--store", f"s3://{BUCKET}/{store}")
        return self.hosts["desk"].start(log, *command, *place, *words)

    def keys(self, prefix: str) -> list[str]:
        """The bucket's keys below a prefix; OSError or BotoCoreError when nothing answers soon."""
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
        """Copy a store but for one stage's artifacts and for what belongs to runs."""
        with self.hosts["desk"].network():
            for item in self.bucket.objects.filter(Prefix=f"{store}/"):
                if item.key.split("/")[1] not in (without, "runs", "beats"):
                    source = {"Bucket": BUCKET, "Key": item.key}
                    copy = self.bucket.Object(item.key.replace(store, other, 1))
                    copy.copy_from(CopySource=source)

    def wait_for_nodes(self, number: int = len(NODES)) -> None:
        """Until this many nodes are alive, and jobs are taken."""
        wait(lambda: self.alive() >= number, f"{number} nodes", PATIENCE)

    def alive(self) -> int:
        """How many nodes the cluster counts; 0 when it does not answer."""
        with self.hosts["desk"].network():
            found = get(f"{self.jobs}/api/v0/nodes?detail=false", timeout=10)
        nodes = json.loads(found)["data"]["result"]["result"] if found else []
        return sum(node["state"] == "ALIVE" for node in nodes)

    def _wait_for_port(self, port: int, process: subprocess.Popen[bytes]) -> None:
        def ready() -> bool:
            with self.hosts["desk"].network():
                return answers(port, self.hosts["servers"].address)

        wait_until(ready, f"port {port} (see {self.logs})", process)


def wait(ready: Callable[[], object], what: str, patience: float = 600) -> None:
    """Wait. AssertionError when it takes too long."""
    wait_until(ready, what, patience=patience, every=0.2)


@contextmanager
def cluster(keep: Path | None = None) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts. `keep`: where the logs are copied to at the end."""
    for left in Path("/tmp").glob("g1-*-*"):  # by a maker that was killed
        if not psutil.pid_exists(int(left.name.split("-")[1])):
            shutil.rmtree(left, ignore_errors=True)
    # A Unix socket's path may have 107 characters, so the folder is a short one.
    folder = Path(tempfile.mkdtemp(prefix=f"g1-{os.getpid()}-", dir="/tmp"))
    try:
        with ExitStack() as stack:
            try:
                yield Cluster(stack, folder)
            finally:
                if keep:
                    shutil.copytree(folder / "logs", keep, dirs_exist_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
