"""GLUE's score: the mean of nine tasks, where a task with two figures counts with their mean
(paper, section 4.2).

CoLA: Matthews. SST-2, QNLI, RTE, WNLI: accuracy. MRPC, QQP: mean of F1 and accuracy. STS-B: of
Pearson and Spearman. MNLI: of matched and mismatched accuracy. The paper's own figures give 72.8.
"""

from __future__ import annotations

from collections.abc import Mapping

from gpt1.tasks.registry import TASKS

FIGURES: Mapping[str, tuple[str, ...]] = {
    "cola": ("matthews",), "sst2": ("accuracy",), "mrpc": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"), "qqp": ("f1", "accuracy"),
    "mnli": ("accuracy/matched", "accuracy/mismatched"), "qnli": ("accuracy",),
    "rte": ("accuracy",), "wnli": ("accuracy",),
}


def glue_value(task: str, values: Mapping[str, float]) -> float:
    """What a GLUE task contributes, in per cent, from its metrics in per cent.

    KeyError for another task or a missing metric.
    """
    figures = FIGURES[task]
    return sum(values[name] for name in figures) / len(figures)


def glue_score(scores: Mapping[str, Mapping[str, float]]) -> tuple[float | None, list[str]]:
    """The mean of the nine tasks (None while one is missing) and the missing tasks' names.

    `scores`: metrics by task, per cent.

    The score of fewer tasks would be no GLUE score; `gpt1.report` shows it as the mean of those
    that ran.
    """
    missing = [task for task in FIGURES if task not in scores]
    if missing:
        return None, missing
    return sum(glue_value(task, scores[task]) for task in FIGURES) / len(FIGURES), []


def paper_score() -> float:
    """The paper's GLUE score from its figures of the single tasks (72.8)."""
    found, _ = glue_score({task: TASKS[task].paper for task in FIGURES})
    assert found is not None
    return found
