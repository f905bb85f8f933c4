"""`gpt1 submit` to a running Ray cluster: the same bytes as a run on this machine."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.workflow import MINI, gpt1, outputs, run_mini

pytestmark = pytest.mark.slow
RAY = Path(sys.executable).parent / "ray"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray cluster of this test's own; its job address."""
    dashboard, port = free_port(), free_port()
    # A Unix socket's path may have 107 characters, so the folder is a short one.
    temporary = Path("/tmp") / f"gpt1-ray-{os.getpid()}"
    command = [
        RAY, "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", f"--dashboard-port={dashboard}", "--num-cpus=2",
        f"--temp-dir={temporary}", "--object-store-memory=200000000", "--disable-usage-stats", "--block",
    ]  # fmt: skip
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("wb") as out:
        head = subprocess.Popen(list(map(str, command)), env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=log.parent)
    deadline = time.monotonic() + 90
    while "Ray runtime started" not in log.read_text():
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{dashboard}"
    head.terminate()
    head.wait(timeout=60)


def test_a_submitted_run_gives_the_same_bytes(cluster: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert run_mini(here).returncode == 0
    sent = gpt1("submit", "--address", cluster, "--file", MINI, "--store", there)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert re.search(r"19 made, 0 taken as they were, 0 failed", sent.stdout)
    assert outputs(there) == outputs(here)
    again = gpt1("submit", "--address", cluster, "--file", MINI, "--store", there)
    assert (again.returncode, "nothing to run" in again.stdout) == (0, True)
    bad = gpt1("submit", "--address", cluster, "--file", MINI, "--store", there, "--set", "pretrain.resources.workers=8")
    assert bad.returncode == 0, "placement is no reason to run again"


def test_no_cluster_is_one_clear_line(tmp_path: Path) -> None:
    ended = gpt1("submit", "--address", f"http://127.0.0.1:{free_port()}", "--file", MINI, "--store", tmp_path)
    assert ended.returncode == 2
    assert "no Ray cluster answers" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
