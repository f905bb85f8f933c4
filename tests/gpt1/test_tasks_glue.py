"""GLUE's score against the paper's."""

from __future__ import annotations

import pytest

from gpt1.tasks.glue import FIGURES, glue_score, glue_value, paper_score
from gpt1.tasks.table import TASKS


def test_the_papers_figures_give_the_papers_score() -> None:
    assert round(paper_score(), 1) == 72.8


def test_two_figures_count_as_their_mean() -> None:
    assert glue_value("mrpc", {"f1": 80.0, "accuracy": 70.0}) == 75.0
    assert glue_value("mnli", {"accuracy": 1.0, "accuracy/matched": 82.0, "accuracy/mismatched": 80.0}) == 81.0


def test_a_missing_task_leaves_no_score_and_is_named() -> None:
    scores = {task: TASKS[task].paper for task in FIGURES if task != "wnli"}
    assert glue_score(scores) == (None, ["wnli"])


def test_every_figure_is_one_of_the_tasks_metrics() -> None:
    for task, figures in FIGURES.items():
        assert {name.partition("/")[0] for name in figures} <= set(TASKS[task].metrics)
    with pytest.raises(KeyError):
        glue_value("race", {"accuracy": 1.0})
