"""A Ray cluster of one node, started by `ray start`, with ports and a folder of its own."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.process import free_port, running

RAY = Path(sys.executable).parent / "ray"
PORTS = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
"""Those that Ray would take at fixed numbers; the others it chooses itself."""


@dataclass(frozen=True)
class Cluster:
    """The address for jobs, that for `ray.init`, and the folder of its logs."""

    address: str
    gcs: str
    folder: Path


@contextmanager
def ray_cluster(
    log: Path, environment: Mapping[str, str] | None = None, cpus: int = 2, keep: Path | None = None
) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts. `keep`: where its logs are copied to in the end."""
    ports = {name: free_port() for name in PORTS}
    # A Unix socket's path may have 107 characters, so the folder is a short one.
    folder = Path(tempfile.mkdtemp(prefix="gpt1-ray-", dir="/tmp"))
    command = [
        RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}",
        f"--temp-dir={folder}", "--object-store-memory=200000000", "--disable-usage-stats",
        "--block", *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    variables = {"RAY_AUTH_MODE": "disabled", **(environment or {})}
    try:
        with running(command, log, variables, folder, lambda: "runtime started" in log.read_text()):
            address, gcs = (f"127.0.0.1:{ports[name]}" for name in ("dashboard-port", "port"))
            yield Cluster(f"http://{address}", gcs, folder)
    finally:
        if keep:
            sockets = shutil.ignore_patterns("sockets", "*.sock")
            shutil.copytree(folder, keep, symlinks=True, ignore=sockets, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
