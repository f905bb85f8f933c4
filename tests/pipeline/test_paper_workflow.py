"""The project's own workflow.yaml: which cells of the paper take which model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpt1.tasks.table import TASKS
from pipeline.workflow import Workflow, read
from stages import finetune
from tests.conftest import ROOT

GPT, LSTM = "pretrain[model=gpt]", "pretrain[model=lstm]"
SEEDS = "finetune.matrix.seed="


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of data lies here."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def paper() -> Workflow:
    return read(ROOT / "workflow.yaml", "paper")


def finetunings(profile: str, *assignments: str) -> list[dict[str, Any]]:
    """The settings of all of them."""
    cells = read(ROOT / "workflow.yaml", profile, assignments).node_cells("finetune")
    return [cell.settings.model_dump() for cell in cells]


def test_each_cell_takes_its_own_model(paper: Workflow) -> None:
    def taken(cell: str, kind: str) -> tuple[str, ...]:
        return paper.cells[cell].inputs.get(kind, ())

    variants = {"full": (GPT,), "no_auxiliary_lm": (GPT,), "no_pretraining": (), "lstm": (LSTM,)}
    for variant, models in variants.items():
        cell = f"finetune[task=race,variant={variant},seed=2]"
        assert (taken(cell, "pretrain"), taken(cell, "encode")) == (models, ("encode[task=race]",))
    assert taken("zero_shot[task=dprd,model=lstm]", "pretrain") == (LSTM,)
    assert taken("transfer[task=mnli,transferred=12]", "pretrain") == (GPT,)
    assert taken("export", "pretrain") == (GPT,)
    assert len(taken("submission", "finetune")) == 13 * 3 + 6 * 7
    exported = taken("export", "zero_shot") + taken("export", "finetune")
    assert not any("lstm" in cell for cell in exported)


@pytest.mark.parametrize("profile", ["demo", "one-gpu"])
def test_small_profiles_train_the_transformer_alone(profile: str) -> None:
    workflow = read(ROOT / "workflow.yaml", profile)
    assert not any("lstm" in name for name in workflow.cells)
    models = {cell.inputs.get("pretrain") for cell in workflow.node_cells("finetune")}
    assert models == {("pretrain",)}


@pytest.mark.parametrize(
    ("profile", "assignments", "seed"),
    [
        ("paper", [], 1), ("one-gpu", [], 1), ("demo", [], 1), ("demo", ["finetune.seed=2"], 2),
        ("demo", [f"{SEEDS}[5,3]", "finetune.matrix.variant=[no_auxiliary_lm,full]"], 5),
    ],
)
def test_each_tasks_first_full_cell_keeps_its_weights(
    profile: str, assignments: list[str], seed: int
) -> None:
    settings = finetunings(profile, *assignments)
    kept = [(one["task"], one["variant"], one["seed"]) for one in settings if one["keep_model"]]
    assert kept == [(task, "full", seed) for task in dict.fromkeys(one["task"] for one in settings)]


@pytest.mark.parametrize(
    ("variants", "kept"),
    [
        (("lstm", "no_auxiliary_lm", "full"), ["full"]),
        (("lstm", "no_auxiliary_lm", "no_auxiliary_lm"), ["no_auxiliary_lm"]), (("lstm",), []),
    ],
)
def test_without_a_full_cell_another_keeps_its_weights(
    variants: tuple[Any, ...], kept: list[str]
) -> None:
    cells = [
        finetune.FinetuneSettings(task="rte", variant=variant, seed=seed)
        for seed, variant in enumerate(variants)
    ]
    assert [one.variant for one in finetune.STAGE.complete(cells) if one.keep_model] == kept


@pytest.mark.parametrize(("given", "kept"), [("true", {1, 2}), ("false", set())])
def test_what_keep_model_says_is_done(given: str, kept: set[int]) -> None:
    settings = finetunings("demo", f"{SEEDS}[1,2]", f"finetune.keep_model={given}")
    assert {one["seed"] for one in settings if one["keep_model"]} == kept


def test_ten_seeds_for_tasks_under_ten_thousand_rows() -> None:
    seeds: dict[str, set[int]] = {}
    for one in finetunings("paper"):
        seeds.setdefault(one["task"], set()).add(one["seed"])
    expected = {task: 10 if TASKS[task].rows["train"] < 10_000 else 3 for task in seeds}
    assert {task: len(found) for task, found in seeds.items()} == expected


PRETRAIN = {
    "layers": 12, "width": 768, "heads": 12, "context": 512, "batch": 64, "max_lr": 2.5e-4,
    "warmup": 2000, "clip": 1.0,
}  # fmt: skip
FINETUNE = {
    "lr": 6.25e-5, "batch": 32, "epochs": 3, "warmup": 0.002, "lm_weight": 0.5,
    "weight_decay": 0.01, "clip": 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "numbers"),
    [(GPT, PRETRAIN), ("finetune[task=rte,variant=full,seed=1]", FINETUNE)],
)
def test_the_papers_numbers_are_in_the_profile(
    cell: str, numbers: dict[str, float], paper: Workflow
) -> None:
    """SPEC sections 1, 3 and 4: a warm-up of 0.2 % is 0.002, and nothing else."""
    settings = paper.cells[cell].settings.model_dump()
    assert {name: settings[name] for name in numbers} == numbers
