"""`gpt1 submit` to a running Ray cluster: the same bytes as a run on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.workflow import MINI, gpt1, outputs
from tests.servers.process import free_port
from tests.servers.ray_cluster import ray_cluster

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Ray cluster of this test's own; its job address."""
    with ray_cluster(tmp_path / "ray.log") as running:
        yield running.address


def test_a_submitted_run_gives_the_same_bytes(cluster: str, golden_run: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    sent = gpt1("submit", "--address", cluster, "--file", MINI, "--store", there)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert re.search(r"19 made, 0 taken as they were, 0 failed", sent.stdout)
    assert outputs(there) == outputs(golden_run)
    again = gpt1("submit", "--address", cluster, "--file", MINI, "--store", there)
    assert (again.returncode, "nothing to run" in again.stdout) == (0, True)
    bad = gpt1("submit", "--address", cluster, "--file", MINI, "--store", there, "--set", "pretrain.resources.workers=8")
    assert bad.returncode == 0, "placement is no reason to run again"


def test_no_cluster_is_one_clear_line(tmp_path: Path) -> None:
    ended = gpt1("submit", "--address", f"http://127.0.0.1:{free_port()}", "--file", MINI, "--store", tmp_path)
    assert ended.returncode == 2
    assert "no Ray cluster answers" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
