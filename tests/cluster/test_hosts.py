"""The whole workflow over three hosts that share no disk, submitted from a fourth."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.conftest import ROOT
from tests.e2e.workflow import MINI, gpt1, outputs, records

pytestmark = pytest.mark.slow
WORKFLOWS: dict[str, tuple[Path | str, ...]] = {"mini": (MINI,), "demo": (ROOT / "workflow.yaml", "--profile", "demo")}


@pytest.mark.parametrize("name", ["mini", pytest.param("demo", marks=pytest.mark.long)])
def test_the_workflow_over_hosts(hosts: Cluster, tmp_path: Path, name: str) -> None:
    """Every file is the same as on one machine: token shards, weights (two ranks here, two there), scores."""
    log = tmp_path / "submit.log"
    file, *words = WORKFLOWS[name]
    submitted = hosts.submit(log, file, f"s3://gpt1/{name}", *words)
    assert submitted.wait(timeout=2400) == 0, log.read_text()[-5000:]
    there = hosts.copied(name, tmp_path / "there")
    ranks = re.search(r"2 ranks on (10\.77\.0\.\d+) \(1\), (10\.77\.0\.\d+) \(1\)", log.read_text())
    assert ranks, log.read_text()
    assert ranks[1] != ranks[2]
    parts = [record for name, record in records(there).items() if record["stage"].endswith(".parts")]
    assert {record["host"] for record in parts} == set(hosts.nodes), "parts are made on every host"
    spread = {record["stage"]: {other["host"] for other in parts if other["stage"] == record["stage"]} for record in parts}
    assert len(spread["shard.parts"]) > 1
    for path in there.rglob("record.json"):
        assert str(hosts.folder) not in path.read_text(), "no path of a host is in a record"

    here = tmp_path / "here" / "store"
    ended = gpt1("run", "--file", *WORKFLOWS[name], "--store", here, timeout=1500)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert outputs(there) == outputs(here)
    assert sum("/train/" in name for name in outputs(there)) > 0
    assert any(name.endswith("pretrain/model.safetensors") for name in outputs(there))
