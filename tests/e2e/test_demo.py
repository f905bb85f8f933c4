"""The demo as a newcomer runs it: it learns, and its tasks beat their baselines."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.workflow import done, records

pytestmark = pytest.mark.chaos
WORDS = ("--file", ROOT / "workflow.yaml", "--profile", "demo", "--store")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT1_DEMO_STORE: a store in which the demo has been run already."""
    given = os.environ.get("GPT1_DEMO_STORE")
    folder = Path(given) if given else tmp_path_factory.mktemp("demo") / "store"
    done("run", *WORDS, folder, timeout=1500)
    return folder


def test_it_learned(store: Path) -> None:
    """Pre-training beats the unigram model clearly, three of four tasks their baselines."""
    found = {cell: record["summary"] for cell, record in records(store).items()}
    unigram = found["shard/shard"]["unigram_perplexity"]
    assert found["pretrain/pretrain"]["unigram_perplexity"] == unigram
    assert found["pretrain/pretrain"]["validation_perplexity"] <= 0.6 * unigram
    scores = [summary for cell, summary in found.items() if cell.startswith("finetune/")]
    margins = [s["accuracy"] - s["baseline"] - 2 * s["standard_error"] for s in scores]
    assert len(margins) == 4
    assert sum(margin >= 0 for margin in margins) >= 3


def test_its_figures_can_be_kept(store: Path, tmp_path: Path) -> None:
    script = [sys.executable, ROOT / "benchmarks" / "pretraining.py", "--store", store]
    subprocess.run([*script, "--out", tmp_path / "kept"], check=True)
    kept = (tmp_path / "kept" / "README.md").read_text(encoding="utf-8")
    summary = records(store, "pretrain")["pretrain/pretrain"]["summary"]
    assert f"Held-out perplexity **{summary['validation_perplexity']:.2f}**" in kept
    for chart in ("perplexity", "loss", "zero-shot"):
        assert f"]({chart}.svg)" in kept
        assert (tmp_path / "kept" / f"{chart}.svg").is_file()
    assert subprocess.run([*script, "--job", "x", "--out", tmp_path / "no"]).returncode == 2
