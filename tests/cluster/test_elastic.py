"""One of two hosts is gone: training goes on with the other, and takes the first in again when it is back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.faults import CALM, Calm, newest, rank_host
from tests.e2e.workflow import MINI

pytestmark = [pytest.mark.slow, pytest.mark.long]

STEPS, EVERY, HIT = 2400, 50, 150
ORDER = (
    "pretrain", "--set", f"pretrain.steps={STEPS}", "--set", f"pretrain.checkpoint_every={EVERY}", "--set", "pretrain.batch=64",
    "--set", "pretrain.resources.min_workers=1", "--set", "pretrain.resize_every=10",
)  # fmt: skip


def test_one_of_two_hosts_goes_and_comes_back(hosts: Cluster, undisturbed: Calm, tmp_path: Path) -> None:
    """That batches, dropout and losses are the same on any number of ranks is shown by tests/gpt1/test_train_elastic.py."""
    assert undisturbed.files
    hosts.copy_store(CALM, "elastic", without="pretrain")
    hosts.hosts["two"].power_off()
    hosts.wait(lambda: hosts.alive() == 2, "the cluster to miss a node", 120)
    log = tmp_path / "elastic.log"
    process = hosts.submit(log, MINI, "s3://gpt1/elastic", *ORDER)

    def said(pattern: str) -> int:
        assert process.poll() is None, log.read_text()[-5000:]
        return len(re.findall(pattern, log.read_text()))

    hosts.wait(lambda: said("2 ranks on ") == 1 and newest(hosts, "elastic") >= HIT, "two ranks", 600)
    gone = rank_host(hosts, log)
    hosts.hosts[gone].power_off()
    hosts.wait(lambda: said("1 ranks on ") == 1, "one rank", 600)
    at = newest(hosts, "elastic")
    hosts.wait(lambda: newest(hosts, "elastic") > at, "its checkpoints", 600)
    hosts.switch_on(gone)
    hosts.wait(lambda: said("2 ranks on ") == 2, "two ranks again", 600)
    assert process.wait(timeout=900) == 0, log.read_text()[-5000:]
    hosts.switch_on("two")

    assert re.findall(r"made with \{'ranks': (\d).*?now \{'ranks': (\d)", log.read_text()) == [("2", "1"), ("1", "2")]
    [file] = hosts.copied("elastic", tmp_path / "elastic").glob("pretrain/*/*/metrics.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == list(range(10, STEPS + 1, 10)), "no step is lost or doubled"
