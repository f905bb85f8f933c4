"""`gpt1 tasks` and `gpt1 data get`, as a person runs them, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.pipeline.inprocess import gpt1, refused


def test_the_list_holds_the_twelve_tasks_and_the_papers_figures() -> None:
    rows = {row["name"]: row for row in gpt1("tasks", "--json").json()}
    assert rows["mnli"]["rows"] == {"train": 392702, "dev": 19647, "test": 19643}
    assert rows["mnli"]["paper"] == {"accuracy/matched": 82.1, "accuracy/mismatched": 81.4}
    columns = ["article", "question", "answer"]
    assert rows["race"]["hub"] == {"repo": "ehovy/race", "columns": columns}
    assert rows["storycloze"]["hub"] is None
    assert len([row for row in rows.values() if row["paper"] and row["name"] != "wnli"]) == 12
    table = gpt1("tasks").out.splitlines()
    assert table[0].split() == ["task", "kind", "metrics", "paper", "train/dev/test", "files"]
    assert len(table) == len(rows) + 1


def test_without_a_network_one_clear_line(tmp_path: Path) -> None:
    words = ["-m", "pipeline.cli", "data", "get", "cola", "sst2", "--to", str(tmp_path)]
    # In a process of its own: the library reads them when it is imported.
    hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=100,
        env={**os.environ, **hub}, check=False,
    )  # fmt: skip
    [line] = done.stderr.splitlines()
    assert (done.returncode, line.startswith("gpt1: CoLA: nyu-mll/glue could not")) == (2, True)
    files = ", ".join(f"cola/{split}-*.parquet" for split in ("train", "validation", "test"))
    assert f"copy {files} of that data set into {tmp_path}" in line


def test_what_may_not_be_downloaded_is_said(tmp_path: Path) -> None:
    ended = gpt1("data", "get", "storycloze", "dprd", "--to", tmp_path)
    assert ended.status == 0, ended
    assert "storycloze: not fetched; ask at https://cs.rochester.edu/nlp/rocstories" in ended.out
    assert "dprd: not fetched; ask at https://www.hlt.utdallas.edu" in ended.out
    refused("did you mean 'cola'", "data", "get", "colla")
