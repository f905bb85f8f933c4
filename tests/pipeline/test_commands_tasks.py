"""`gpt1 tasks` and `gpt1 data get`, as a person runs them, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def gpt1(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, env={**os.environ, **environment})


def test_the_list_holds_the_twelve_tasks_and_the_papers_figures() -> None:
    done = gpt1("tasks", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["mnli"]["rows"] == {"train": 392702, "dev": 19647, "test": 19643}
    assert rows["mnli"]["paper"] == {"accuracy/matched": 82.1, "accuracy/mismatched": 81.4}
    assert rows["race"]["hub"] == {"repo": "ehovy/race", "columns": ["article", "question", "answer"]}
    assert rows["storycloze"]["hub"] is None
    assert len([row for row in rows.values() if row["paper"] and row["name"] != "wnli"]) == 12
    table = gpt1("tasks").stdout.splitlines()
    assert table[0].split() == ["task", "kind", "metrics", "paper", "train/dev/test", "files"]
    assert len(table) == len(rows) + 1


def test_without_a_network_one_clear_line(tmp_path: Path) -> None:
    done = gpt1("data", "get", "cola", "sst2", "--to", str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="0")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("gpt1: CoLA: nyu-mll/glue could not be fetched from the Hugging Face hub (")
    assert f"copy cola/train-*.parquet, cola/validation-*.parquet, cola/test-*.parquet of that data set into {tmp_path}" in line


def test_what_may_not_be_downloaded_is_said(tmp_path: Path) -> None:
    done = gpt1("data", "get", "storycloze", "dprd", "--to", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "storycloze: not fetched; ask at https://cs.rochester.edu/nlp/rocstories" in done.stdout
    assert "dprd: not fetched; ask at https://www.hlt.utdallas.edu" in done.stdout
    wrong = gpt1("data", "get", "colla")
    assert wrong.returncode == 2
    assert "did you mean 'cola'" in wrong.stderr
