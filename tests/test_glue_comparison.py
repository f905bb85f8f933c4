"""The paired comparison of benchmarks/glue.py on figures worked out by hand."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def glue() -> ModuleType:
    spec = importlib.util.spec_from_file_location("glue_benchmark", ROOT / "benchmarks" / "glue.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def job(**values: float) -> dict[str, Any]:
    return {"values": values, "metric": next(iter(values)), "n": 10, "train_rows": 5, "official_rows": {}}


def test_pairs_are_of_one_seed_and_incomplete_tasks_are_left_out(glue: ModuleType) -> None:
    scores = {}
    for seed, lead in ((1, 4.0), (2, 2.0)):
        scores["rte", "full", seed] = job(accuracy=50 + lead)
        scores["rte", "no_pretraining", seed] = job(accuracy=50.0)
        scores["mrpc", "full", seed] = job(f1=80.0, accuracy=70 + lead)
        scores["mrpc", "no_pretraining", seed] = job(f1=80.0, accuracy=70.0)
    scores["cola", "full", 1] = job(matthews=10.0)
    scores["rte", "full", 3] = job(accuracy=99.0)
    tasks, seeds, found = glue.differences(scores)
    assert (tasks, seeds) == (["mrpc", "rte"], [1, 2])
    assert found.tolist() == [[2.0, 4.0], [1.0, 2.0]]


def test_students_interval_over_three_seeds(glue: ModuleType) -> None:
    low, high = glue.t_interval(np.array([1.0, 2.0, 3.0]))
    assert low == pytest.approx(2 - 4.302653 / np.sqrt(3), abs=1e-5)
    assert high == pytest.approx(2 + 4.302653 / np.sqrt(3), abs=1e-5)
    assert np.isnan(glue.t_interval(np.array([1.0]))[0])


def test_the_verdict_needs_all_eight_tasks(glue: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"cola": ["matthews"], "stsb": ["pearson", "spearman"], "mnli": ["accuracy/matched", "accuracy/mismatched"]}
    figures |= {task: ["f1", "accuracy"] for task in ("mrpc", "qqp")} | {task: ["accuracy"] for task in ("sst2", "qnli", "rte")}
    scores = {
        (task, variant, seed): job(**dict.fromkeys(names, 50.0 + (variant == "full") * (2 + 0.1 * seed)))
        for task, names in figures.items()
        for variant in ("full", "no_pretraining")
        for seed in (1, 2, 3)
    }
    assert glue.report(scores) == 0
    assert "higher in 8 of 8" in capsys.readouterr().out
    assert glue.report({key: value for key, value in scores.items() if key[0] != "rte"}) == 1
