"""`kill -9` of the driver in clean, pretrain and finetune, then the same command: nothing is done twice, every byte is the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.workflow import gpt1, kill_when, outputs, records, run_mini

pytestmark = pytest.mark.slow


def checkpoints(store: Path) -> list[int]:
    """Steps of the whole checkpoints of pre-training, over all attempts."""
    found = [re.search(r"\d+", path.parent.name) for path in store.glob("pretrain/*/*/checkpoints/*/record.json")]
    return sorted(int(match[0]) for match in found if match)


def test_killed_three_times_the_result_is_the_same(golden_run: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"

    kill_when(store, lambda: len(records(store, "clean.parts")) >= 3)
    parts = records(store, "clean.parts")
    assert not records(store, "clean")

    kill_when(store, lambda: bool(checkpoints(store)) and checkpoints(store)[-1] >= 60)
    clean = records(store, "clean")["clean/clean"]
    # A worker may publish the part it was at after its driver is gone: that one is found done as well.
    assert clean["parts"]["reused"] >= len(parts) >= 3
    assert clean["parts"]["reused"] + clean["parts"]["made"] == 6
    assert {name: records(store, "clean.parts")[name] for name in parts} == parts
    reached = checkpoints(store)[-1]
    assert not records(store, "pretrain")

    kill_when(store, lambda: len(records(store, "finetune")) >= 1)
    done = {cell: record for cell, record in records(store).items() if "." not in cell.split("/")[0]}
    assert len(records(store, "finetune")) < 4

    last = run_mini(store)
    assert last.returncode == 0, last.stdout + last.stderr
    after = records(store)
    assert {cell: after[cell] for cell in done} == done, "a finished job was made again"

    attempts = sorted((store / "pretrain").glob("*/2*"))
    assert len(attempts) == 2
    steps = [json.loads(line)["step"] for line in next(attempts[1].glob("throughput.jsonl")).read_text().splitlines()]
    assert min(steps) > reached - 20, f"pre-training had reached {reached} and went on from before {min(steps)}"
    assert outputs(store) == outputs(golden_run)


def test_nothing_runs_again_and_a_changed_number_is_named(golden_run: Path) -> None:
    words = ("--file", Path(__file__).parent / "mini.yaml", "--store", golden_run)
    again = gpt1("run", *words)
    assert again.returncode == 0
    assert "nothing to run" in again.stdout
    changed = gpt1("run", *words, "--set", "pretrain.max_lr=1e-3", "--dry-run").stdout
    assert re.search(r"pretrain +stale +with.max_lr: 0.003 -> 0.001", changed)
    for cell in ("finetune[task=demo_choice,seed=1]", "zero_shot[task=demo_choice]", "transfer[transferred=0]", "export", "report"):
        assert re.search(rf"^{re.escape(cell)} +stale +.*input pretrain changed", changed, re.MULTILINE), changed
    for cell in ("ingest", "clean", "split", "vocabulary", "shard", "task_data"):
        assert not re.search(rf"^{cell}\b.* stale ", changed, re.MULTILINE), changed
