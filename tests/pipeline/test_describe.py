"""`gpt1 describe`: from a workflow's settings and what its store has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from pipeline.commands.describe import describe
from pipeline.plan import Selection
from tests.conftest import ROOT
from tests.pipeline.inline import plan_of, run_inline

TINY = ROOT / "tests" / "stages" / "pretrain_workflow.yaml"


def described(capsys: pytest.CaptureFixture[str], **options: Any) -> list[dict[str, Any]]:
    describe(**{"file": ROOT / "workflow.yaml", "store": "nowhere", "as_json": True, **options})
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_the_paper_s_settings(capsys: pytest.CaptureFixture[str]) -> None:
    row, lstm = described(capsys, tokens=1_000_000_000, device="H100", mfu=0.5)
    assert (row["cell"], lstm["cell"], lstm["parameters"]) == ("pretrain[model=gpt]", "pretrain[model=lstm]", 56_140_544)
    assert row["parameters"] == ModelConfig().parameters() == 116_534_784
    assert (row["steps"], row["tokens"], row["epochs"], row["ranks"]) == (1_000_000, 32_768_000_000, 32.768, 8)
    assert row["seconds"] == pytest.approx(32.768e9 * 755.8e6 / (989e12 * 0.5 * 8), rel=1e-3)


def test_profile_and_set_count(capsys: pytest.CaptureFixture[str]) -> None:
    [row] = described(
        capsys, profile="demo", assignments=["pretrain.batch=16", "pretrain.large_batch=scaled", "vocabulary.merges=500"]
    )
    assert row["parts"][0]["parameters"] == (1 + 2 * 238 + 500 + 1) * 128
    assert (row["batch"], row["steps"]) == (16, 6000)  # 1,500 of the paper's batch are as many tokens as 6,000 of a quarter of it
    assert row["epochs"] is None
    assert row["seconds"] is None


def test_what_the_store_has_is_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = plan_of(TINY, tmp_path, selection=Selection(stages=("shard",)))
    run_inline(plan)
    [row] = described(capsys, file=TINY, store=str(tmp_path))
    made = {kind: plan.store.artifact(kind, plan.entries[kind].fingerprint) for kind in ("shard", "vocabulary")}
    assert made["shard"] is not None
    assert made["vocabulary"] is not None
    assert row["corpus_tokens"] == made["shard"].summary["train_tokens"]
    assert row["parts"][0]["parameters"] == made["vocabulary"].summary["vocabulary"] * 32
    assert row["vocabulary"].endswith("as made")


def test_a_workflow_without_pretraining_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "workflow.yaml"
    file.write_text("stages:\n  ingest: {with: {source: embedded}}\n")
    with pytest.raises(UserError, match="no stage uses `pretrain`"):
        describe(file=file, store=str(tmp_path))


def test_an_unknown_device_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="Toaster"):
        described(capsys, device="Toaster")
