"""Servers as child processes: started on free ports, awaited, ended by their own process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import ROOT

PATIENCE = 240.0  # seconds a server may take to answer on a busy machine


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens there."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def wait_until(
    ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path, patience: float = PATIENCE
) -> None:
    """Wait; AssertionError with the end of the log when the process ends, or takes too long."""
    deadline = time.monotonic() + patience
    while not ready():
        said = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        assert process.poll() is None, f"{what} has ended: {said}"
        assert time.monotonic() < deadline, f"{what} does not answer: {said}"
        time.sleep(0.1)


@contextmanager
def running(
    command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None, cwd: Path = ROOT, grace: float = 20.0
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, in a group of its own, until the block ends; then the whole group is ended."""
    with log.open("ab") as out:
        variables = {**os.environ, **(environment or {})}
        words = [str(word) for word in command]
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, cwd=cwd, env=variables, process_group=0)
    try:
        yield process
    finally:
        end(process, grace)


def end(process: subprocess.Popen[bytes], grace: float = 20.0) -> None:
    """End a process that leads a group, and what is left of the group."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def s3_server(log: Path, port: int | None = None, host: str = "127.0.0.1") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """moto's S3 server: its address, and its process (to be paused with SIGSTOP; stopping it would lose what it holds)."""
    port = port or free_port()
    with running([sys.executable, "-m", "tests.servers.s3", str(port), host], log) as process:
        wait_until(lambda: answers(port, host), "the S3 server", process, log)
        yield f"http://{host}:{port}", process
