"""`import gpt1` in a script, and the notebook of the documentation."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gpt1
from pipeline.results import open_store
from tests.conftest import ROOT, refuses

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def test_names_are_few_and_loaded_late() -> None:
    assert len(gpt1.__all__) <= 12
    assert all(getattr(gpt1, name).__doc__ for name in gpt1.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = gpt1.nothing
    code = "import sys, gpt1; gpt1.Tokenizer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert {"torch", "spacy", "transformers"} & set(done.stdout.split()) == set(), done.stderr
    assert "gpt1.tokenizer.tokenizer" in done.stdout


def test_a_store_without_a_run(tmp_path: Path) -> None:
    refuses("no such store", open_store, tmp_path / "none")
    refuses("no run is recorded in this store", open_store, tmp_path)


@pytest.mark.slow
def test_the_notebook_runs(
    golden_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = json.loads(NOTEBOOK.read_bytes())["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    (tmp_path / "store").symlink_to(golden_run)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for number, code in enumerate(codes):
        exec(compile(code, f"{NOTEBOOK.name}, code {number}", "exec"), found)
    tokenizer, results = found["tokenizer"], found["results"]
    assert {"vocabulary", "shard", "pretrain"} <= set(results.jobs)
    assert tokenizer.encode(tokenizer.decode(found["ids"])) == found["ids"]
    assert len(found["book"]) == found["span"].length
    assert 1 < found["before"] < tokenizer.vocabulary.size
    assert len(found["losses"]) == 8
    assert max(found["losses"]) < 2 * min(found["losses"])
    assert len(found["texts"]) == 2
    assert all(found["texts"])
    figures = results.summary("shard")
    assert results.shards("train").tokens == figures["train_tokens"]
    assert json.loads(results.file("shard", "shards.json").read_bytes()) == figures
    refuses("no job 'nothing'", results.summary, "nothing")
