"""The project's own workflow.yaml: which cells of the paper take which model."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gpt1.tasks.registry import TASKS
from pipeline.workflow.load import Workflow, read
from tests.conftest import ROOT, refuses

GPT, LSTM = "pretrain[model=gpt]", "pretrain[model=lstm]"
SEEDS, VARIANTS, AUX = "finetune.matrix.seed=", "finetune.matrix.variant=", "no_auxiliary_lm"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder of data is here."""
    monkeypatch.chdir(tmp_path)


def workflow(profile: str = "paper", *assignments: str) -> Workflow:
    return read(ROOT / "workflow.yaml", profile, assignments)


def finetunings(profile: str, *assignments: str) -> list[dict[str, Any]]:
    """The settings of all of them."""
    found = workflow(profile, *assignments)
    assert profile == "paper" or not any("lstm" in name for name in found.cells)
    cells = found.cells.values()
    return [cell.settings.model_dump() for cell in cells if cell.node == "finetune"]


def test_each_cell_takes_its_own_model() -> None:
    paper = workflow()

    def taken(cell: str, kind: str = "pretrain") -> tuple[str, ...]:
        return paper.cells[cell].inputs.get(kind, ())

    variants = {"full": (GPT,), AUX: (GPT,), "no_pretraining": (), "lstm": (LSTM,)}
    for variant, models in variants.items():
        cell = f"finetune[task=race,variant={variant},seed=2]"
        assert (taken(cell), taken(cell, "encode")) == (models, ("encode[task=race]",))
    assert taken("zero_shot[task=dprd,model=lstm]") == (LSTM,)
    assert taken("transfer[task=mnli,num_layers_transferred=12]") == taken("export") == (GPT,)
    assert len(taken("submission", "finetune")) == 13 * 3 + 6 * 7
    assert "lstm" not in str((taken("export", "zero_shot"), taken("export", "finetune")))


@pytest.mark.parametrize(("profile", "assignments", "kept"), [
    ("paper", [], [("full", 1)]), ("one-gpu", [], [("full", 1)]),
    ("demo", ["finetune.seed=2"], [("full", 2)]),
    ("demo", [f"{SEEDS}[5,3]", f"{VARIANTS}[{AUX},full]"], [("full", 5)]),
    ("demo", [f"{VARIANTS}[{AUX}]", f"submission.variant={AUX}"], [(AUX, 1)]),
    ("demo", [f"{SEEDS}[1,2]", "finetune.keep_model=true"], [("full", 1), ("full", 2)]),
    ("demo", [f"{SEEDS}[1,2]", "finetune.keep_model=false"], []),
])  # fmt: skip
def test_cells_that_keep_weights(profile: str, assignments: list[str], kept: list[Any]) -> None:
    """Each task's first full one, else its first; or what `keep_model` says."""
    found: dict[str, list[tuple[str, int]]] = {}
    for one in finetunings(profile, *assignments):
        cells = found.setdefault(one["task"], [])
        cells += [(one["variant"], one["seed"])] if one["keep_model"] else []
    assert set(map(tuple, found.values())) == {tuple(kept)}


DATA = "task_data.source=data"


@pytest.mark.parametrize(("profile", "assignments", "found"), [
    ("paper", ["tasks=[cola,sst2,rte]"],
     {"task_data": 3, "encode": 3, "finetune": 3 * 12 + 2 * 28, "submission": 1, "zero_shot": 4}),
    ("paper", ["tasks=dprd"], {"task_data": 1, "zero_shot": 2}),
    ("demo", ["tasks=[cola,sst2,rte]", DATA],
     {"task_data": 3, "encode": 3, "finetune": 3, "submission": 1, "zero_shot": 2}),
    ("demo", ["tasks=[demo_author]"],
     {"task_data": 1, "encode": 1, "finetune": 1, "submission": 1, "transfer": 3}),
])  # fmt: skip
def test_the_tasks_are_one_option(profile: str, assignments: list[str], found: Any) -> None:
    """Of each stage the jobs of these tasks that it supports, and that its own list has."""
    jobs = Counter(cell.node for cell in workflow(profile, *assignments).cells.values())
    after = ("task_data", "encode", "finetune", "submission", "zero_shot", "transfer")
    assert {node: jobs[node] for node in after if node in jobs} == found
    assert jobs["report"] == 1


@pytest.mark.parametrize(("profile", "assignments", "asked", "message"), [
    ("demo", ["tasks=[rte,colla]"], [], "^--set tasks: unknown task 'colla'; did you mean 'cola'"),
    ("demo", ["tasks=[rte]"], [], "^--set tasks: .*'rte' needs `source`.* task_data.source=data$"),
    ("paper", ["tasks=[rte,lambada]"], [], "^--set tasks: task 'lambada' has jobs only in task_d"),
    ("paper", ["tasks=[rte]"], ["zero_shot"], "^--set tasks: zero_shot has no jobs for .* rte;"),
    ("demo", ["finetune.task=rte"], [], r"^--set finetune.task: .*'rte'; add it to `tasks:`"),
    ("demo", ["tasks=5"], [], r"^--set tasks: .*Input should be a valid string, found 5$"),
    ("demo", ["tasks="], [], r"^--set tasks: .*Input should be a valid string, found None$"),
])  # fmt: skip
def test_tasks_that_cannot_run(profile: str, assignments: Any, asked: Any, message: str) -> None:
    refuses(message, read, ROOT / "workflow.yaml", profile, assignments, asked)


def test_ten_seeds_for_tasks_under_ten_thousand_rows() -> None:
    seeds: dict[str, set[int]] = {}
    for one in finetunings("paper"):
        seeds.setdefault(one["task"], set()).add(one["seed"])
    expected = {task: 10 if TASKS[task].rows["train"] < 10_000 else 3 for task in seeds}
    assert {task: len(found) for task, found in seeds.items()} == expected


@pytest.mark.parametrize(("cell", "numbers"), [
    (GPT, "layers=12 width=768 heads=12 context=512 batch_size=64 lr=2.5e-4"
     " warmup_steps=2000 grad_clip=1 units=2048 dropout=0.1 init_std=0.02 weight_decay=0.01"
     " warmup_ratio=0.002"),
    ("finetune[task=rte,variant=full,seed=1]",
     "lr=6.25e-5 batch_size=32 epochs=3 warmup_ratio=0.002 lm_weight=0.5"
     " weight_decay=0.01 grad_clip=1 classifier_dropout=0.1 dropout=0.1 init_std=0.02"),
])  # fmt: skip
def test_the_papers_numbers_are_in_the_profile(cell: str, numbers: str) -> None:
    """Section 4.1 of the paper: a warmup of 0.2 % is 0.002, and nothing else."""
    settings = workflow().cells[cell].settings.model_dump()
    for name, number in (pair.split("=") for pair in numbers.split()):
        assert settings[name] == float(number), name
