"""The paired comparison of benchmarks/glue.py on figures worked out by hand."""

import runpy
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

GLUE = runpy.run_path(str(ROOT / "benchmarks" / "glue.py"))


def job(**values: float) -> dict[str, Any]:
    metric = next(iter(values))
    return {"values": values, "metric": metric, "n": 10, "train_rows": 5, "official_rows": {}}


def test_pairs_are_of_one_seed_and_incomplete_tasks_are_left_out() -> None:
    scores = {("cola", "full", 1): job(matthews=10.0), ("rte", "full", 3): job(accuracy=99.0)}
    for seed, lead in ((1, 4.0), (2, 2.0)):
        for variant, more in (("full", lead), ("no_pretraining", 0.0)):
            scores["rte", variant, seed] = job(accuracy=50 + more)
            scores["mrpc", variant, seed] = job(f1=80.0, accuracy=70 + more)
    tasks, seeds, found = GLUE["differences"](scores)
    assert (tasks, seeds) == (["mrpc", "rte"], [1, 2])
    assert found.tolist() == [[2.0, 4.0], [1.0, 2.0]]
    assert GLUE["report"](scores) == 1, "a verdict needs all eight tasks"


def test_students_interval_over_three_seeds() -> None:
    half = 4.302653 / np.sqrt(3)
    assert GLUE["t_interval"](np.array([1.0, 2, 3])) == pytest.approx([2 - half, 2 + half], 1e-5)
