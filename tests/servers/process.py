"""Servers as child processes: started on free ports, awaited, ended by their own process id."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from socketserver import BaseRequestHandler

from tests.conftest import ROOT

PATIENCE = 240.0  # seconds a server may take to answer on a busy machine


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something listens there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def get(url: str, timeout: float = 5) -> bytes | None:
    """What a server answers, past any proxy of the environment; None where it does not."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(OSError), opener.open(url, timeout=timeout) as answer:
        return bytes(answer.read())
    return None


def wait_until(
    ready: Callable[[], object], what: str, process: subprocess.Popen[bytes] | None = None,
    log: Path | None = None, patience: float = PATIENCE, every: float = 0.1,
) -> None:  # fmt: skip
    """Wait; AssertionError with the end of the log when the process ends, or takes too long."""
    deadline = time.monotonic() + patience
    while not ready():
        said = log.read_text(errors="replace")[-3000:] if log and log.exists() else ""
        assert process is None or process.poll() is None, f"{what}: the process has ended: {said}"
        assert time.monotonic() < deadline, f"{what}: not in {patience:g} s: {said}"
        time.sleep(every)


@contextmanager
def running(
    command: Sequence[str | Path | int], log: Path, environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT, ready: Callable[[], object] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """A process, once it is `ready`, until the block ends; then all of its group is ended."""
    words, variables = [str(word) for word in command], {**os.environ, **(environment or {})}
    with log.open("ab") as out:
        process = subprocess.Popen(
            words, stdout=out, stderr=out, cwd=cwd, env=variables, process_group=0
        )
    try:
        if ready:
            wait_until(ready, " ".join(words), process, log)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def serving(handler: Callable[..., BaseRequestHandler]) -> Iterator[str]:
    """HOST:PORT of a server of this process that answers by `handler`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def s3_server(log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """moto's S3 server: its address, and its process, to be paused with SIGSTOP."""
    port = free_port()
    command = [sys.executable, "-m", "tests.servers.s3", port]
    with running(command, log, ready=lambda: answers(port)) as process:
        yield f"http://127.0.0.1:{port}", process
