"""The project's own workflow.yaml: which cells of the paper take which model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt1.tasks.table import TASKS
from pipeline.workflow import Workflow, read
from stages import finetune
from tests.conftest import ROOT

WORKFLOW = ROOT / "workflow.yaml"


@pytest.fixture
def paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    monkeypatch.chdir(tmp_path)
    return read(WORKFLOW, "paper")


def taken(workflow: Workflow, cell: str, kind: str) -> tuple[str, ...]:
    return workflow.cells[cell].inputs.get(kind, ())


def test_each_cell_takes_its_own_model(paper: Workflow) -> None:
    gpt, lstm = "pretrain[model=gpt]", "pretrain[model=lstm]"
    for variant, models in {"full": (gpt,), "no_auxiliary_lm": (gpt,), "no_pretraining": (), "lstm": (lstm,)}.items():
        cell = f"finetune[task=race,variant={variant},seed=2]"
        assert taken(paper, cell, "pretrain") == models
        assert taken(paper, cell, "encode") == ("encode[task=race]",)
    assert taken(paper, "zero_shot[task=dprd,model=lstm]", "pretrain") == (lstm,)
    assert taken(paper, "transfer[task=mnli,transferred=12]", "pretrain") == (gpt,)
    assert taken(paper, "export", "pretrain") == (gpt,)
    assert len(taken(paper, "submission", "finetune")) == 13 * 3 + 6 * 7
    assert not any("lstm" in cell for cell in taken(paper, "export", "zero_shot") + taken(paper, "export", "finetune"))


@pytest.mark.parametrize("profile", ["demo", "one-gpu"])
def test_small_profiles_train_the_transformer_alone(profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = read(WORKFLOW, profile).cells
    assert "pretrain" in cells
    assert not any("lstm" in name for name in cells)
    assert {cells[name].inputs.get("pretrain") for name in cells if name.startswith("finetune")} == {("pretrain",)}


@pytest.mark.parametrize(
    ("profile", "assignments", "seed"),
    [
        ("paper", [], 1),
        ("one-gpu", [], 1),
        ("demo", [], 1),
        ("demo", ["finetune.seed=2"], 2),
        ("demo", ["finetune.matrix.seed=[5,3]"], 5),
        ("demo", ["finetune.matrix.seed=[5,3]", "finetune.matrix.variant=[no_auxiliary_lm,full]"], 5),
    ],
)
def test_each_tasks_first_full_cell_keeps_its_weights(
    profile: str, assignments: list[str], seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [cell.settings.model_dump() for cell in read(WORKFLOW, profile, assignments).node_cells("finetune")]
    kept = [(one["task"], one["variant"], one["seed"]) for one in settings if one["keep_model"]]
    assert kept == [(task, "full", seed) for task in dict.fromkeys(one["task"] for one in settings)]


@pytest.mark.parametrize(
    ("variants", "kept"),
    [
        (("lstm", "no_auxiliary_lm", "full"), "full"),
        (("lstm", "no_auxiliary_lm", "no_auxiliary_lm"), "no_auxiliary_lm"),
        (("lstm",), ""),
    ],
)
def test_without_a_full_cell_another_keeps_its_weights(variants: tuple[Any, ...], kept: str) -> None:
    cells = [finetune.FinetuneSettings(task="rte", variant=variant, seed=seed) for seed, variant in enumerate(variants)]
    assert [one.variant for one in finetune.STAGE.complete(cells) if one.keep_model] == ([kept] if kept else [])


@pytest.mark.parametrize(("given", "kept"), [("true", {1, 2}), ("false", set())])
def test_what_keep_model_says_is_done(given: str, kept: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assignments = ["finetune.matrix.seed=[1,2]", f"finetune.keep_model={given}"]
    cells = read(WORKFLOW, "demo", assignments).node_cells("finetune")
    settings = [cell.settings.model_dump() for cell in cells]
    assert {one["seed"] for one in settings if one["keep_model"]} == kept


def test_ten_seeds_for_tasks_under_ten_thousand_rows(paper: Workflow) -> None:
    seeds: dict[str, set[int]] = {}
    for cell in paper.cells.values():
        if cell.node == "finetune":
            seeds.setdefault(cell.axes["task"], set()).add(cell.axes["seed"])
    assert {task: len(found) for task, found in seeds.items()} == {
        task: 10 if TASKS[task].rows["train"] < 10_000 else 3 for task in seeds
    }


def test_the_papers_numbers_stand_in_the_profile(paper: Workflow) -> None:
    """SPEC sections 1, 3 and 4: a warm-up of 0.2 % is 0.002, and nothing else."""
    pretrain = paper.cells["pretrain[model=gpt]"].settings.model_dump()
    numbers = {"layers": 12, "width": 768, "heads": 12, "context": 512, "batch": 64, "max_lr": 2.5e-4, "warmup": 2000, "clip": 1.0}
    assert {name: pretrain[name] for name in numbers} == numbers
    tuning = paper.cells["finetune[task=rte,variant=full,seed=1]"].settings.model_dump()
    numbers = {"lr": 6.25e-5, "batch": 32, "epochs": 3, "warmup": 0.002, "lm_weight": 0.5, "weight_decay": 0.01, "clip": 1.0}
    assert {name: tuning[name] for name in numbers} == numbers
