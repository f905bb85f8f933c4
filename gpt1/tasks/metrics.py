"""The official metrics, in percent, with a baseline and a standard error (section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gpt1.tasks.registry import Task
from gpt1.tasks.text_metrics import OVERLAPS, bleu, mean_overlap, overlaps

RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """A task's score on one set of `n` examples; all figures in per cent.

    `groups` holds the parts' values.
    """

    metric: str
    values: Mapping[str, float]
    baseline: float
    baseline_kind: str
    standard_error: float
    standard_error_kind: str
    n: int

    @property
    def main(self) -> float:
        """The value of the task's first metric."""
        return self.values[self.metric]

    @property
    def above_baseline(self) -> float:
        """How many standard errors the score lies above the baseline; 0 where the error is 0 (a
        constant prediction).
        """
        return (self.main - self.baseline) / self.standard_error if self.standard_error else 0.0

    def above(self, other: Score) -> float:
        """How many standard errors of their difference it is above `other`; 0 where that is 0.

        The error is that of independent scores, too large for two of the same examples.
        """
        error = math.hypot(self.standard_error, other.standard_error)
        return (self.main - other.main) / error if error else 0.0

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        own = {**vars(self), "values": dict(self.values)}
        return {**own, "standard_errors_above_baseline": self.above_baseline}


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of right predictions."""
    return float(np.mean(labels == predictions))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1; 0 where it is in neither side. The arithmetic of scikit-learn's `f1_score`."""
    truth, found = labels == 1, predictions == 1
    both = int(truth.sum()) + int(found.sum())
    return 2 * int((truth & found).sum()) / both if both else 0.0


def matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Matthews' correlation of any number of classes; 0 where one side is constant.

    The arithmetic of scikit-learn's `matthews_corrcoef`: only the last line rounds.
    """
    if _constant(labels, predictions):
        return 0.0
    classes = np.union1d(labels, predictions)
    members = [side[:, None] == classes for side in (labels, predictions)]  # (n, classes) each
    truth, found = (member.sum(axis=0, dtype=np.float64) for member in members)
    n = float(len(labels))
    covariance = float(np.sum(labels == predictions)) * n - float(truth @ found)
    return covariance / math.sqrt((n**2 - float(found @ found)) * (n**2 - float(truth @ truth)))


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Pearson's correlation; 0 where one side is constant. The arithmetic of SciPy's `pearsonr`."""
    if _constant(labels, predictions):
        return 0.0
    return float(np.clip(np.vecdot(_unit(labels), _unit(predictions)), -1.0, 1.0))


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Spearman's correlation; 0 where one side is constant. As SciPy's `spearmanr` computes it."""
    if _constant(labels, predictions):
        return 0.0
    return float(np.corrcoef(_ranks(labels), _ranks(predictions))[1, 0])


def _unit(values: np.ndarray) -> np.ndarray:
    """The deviations from the mean, scaled to length 1."""
    deviations = values.astype(np.float64) - np.mean(values, dtype=np.float64)
    largest = np.max(np.abs(deviations))  # divided out first, so that no square overflows
    # With an axis, numpy sums in the order in which SciPy does.
    return deviations / (largest * np.linalg.norm(deviations / largest, axis=-1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs. NaN throughout where a value is NaN."""
    if np.isnan(values).any():
        return np.full(len(values), np.nan)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (0.5 * (last + (last - counts) + 1))[place]


def _constant(*sides: np.ndarray) -> bool:
    return any(bool(np.ptp(side) == 0) for side in sides)


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy, "f1": f1, "matthews": matthews, "pearson": pearson, "spearman": spearman,
    "bleu": bleu, **{metric: partial(mean_overlap, metric) for metric in OVERLAPS},
}


def score(
    task: Task, labels: Sequence[float | str], predictions: Sequence[float] | Sequence[str],
    groups: Sequence[str] = (), seed: int = 0, sources: Sequence[str] = (),
) -> Score:
    """All metrics of the task, of the whole set and (as `metric/group`) of its groups.

    `sources`: of a generation task, for its baseline.
    """
    truth, found = np.asarray(labels), np.asarray(predictions)
    values = {metric: 100 * METRICS[metric](truth, found) for metric in task.metrics}
    for group in sorted(set(groups) - {""}):
        inside = np.asarray([name == group for name in groups])
        for metric in task.metrics:
            values[f"{metric}/{group}"] = 100 * METRICS[metric](truth[inside], found[inside])
    main = task.metrics[0]
    baseline, baseline_kind = baseline_of(task, truth, sources)
    error, error_kind = standard_error(main, truth, found, seed)
    return Score(main, values, baseline, baseline_kind, error, error_kind, len(truth))


def score_line(name: str, score: Score) -> str:
    """`demo_choice seed 1: accuracy 71.5 (chance 50.0, +10.8 standard errors, 400 dev)`."""
    return (
        f"{name}: {score.metric} {score.main:.1f} ({score.baseline_kind} {score.baseline:.1f}, "
        f"{score.above_baseline:+.1f} standard errors, {score.n} dev)"
    )


def baseline_of(
    task: Task, labels: np.ndarray, sources: Sequence[str] = ()
) -> tuple[float, str]:
    """What needs no model, in per cent, for the task's first metric, and its name."""
    main = task.metrics[0]
    if task.kind == "generation":
        return 100 * METRICS[main](labels, np.asarray(sources)), "copied source"
    if main == "f1":
        return 100 * f1(labels, np.ones_like(labels)), "always class 1"
    if main != "accuracy":
        return 0.0, "constant"
    if task.kind == "last_word":
        return 0.0, "chance"  # one word of all
    if task.choices:
        return 100 / task.choices, "chance"
    return 100 * float(np.unique(labels, return_counts=True)[1].max() / len(labels)), "majority"


def standard_error(
    metric: str, labels: np.ndarray, predictions: np.ndarray, seed: int
) -> tuple[float, str]:
    """In per cent: binomial for accuracy, that of the mean for a mean over examples, else the
    spread over 1,000 resamples of the examples with replacement.
    """
    n = len(labels)
    # With one right and one wrong answer added, so that a perfect score of few examples is not
    # taken for certain.
    if metric in OVERLAPS:
        values = [*overlaps(metric, labels, predictions), 1, 0]
        return 100 * float(np.std(values)) / math.sqrt(n), "mean"
    if metric == "accuracy":
        share = (accuracy(labels, predictions) * n + 1) / (n + 2)
        return 100 * math.sqrt(share * (1 - share) / n), "binomial"
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, n, n) for _ in range(RESAMPLES)]
    values = [METRICS[metric](labels[draw], predictions[draw]) for draw in draws]
    return 100 * float(np.std(values, ddof=1)), "bootstrap"


# GLUE's score: the mean of nine tasks, where a task with two figures counts with their mean
# (section 4.2); the paper's own figures give 72.8


GLUE_METRICS: Mapping[str, tuple[str, ...]] = {
    "cola": ("matthews",), "sst2": ("accuracy",), "mrpc": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"), "qqp": ("f1", "accuracy"),
    "mnli": ("accuracy/matched", "accuracy/mismatched"), "qnli": ("accuracy",),
    "rte": ("accuracy",), "wnli": ("accuracy",),
}


def glue_value(task: str, values: Mapping[str, float]) -> float:
    """What a GLUE task contributes, in per cent, from its metrics in per cent.

    KeyError for another task or a missing metric.
    """
    names = GLUE_METRICS[task]
    return sum(values[name] for name in names) / len(names)


def glue_score(scores: Mapping[str, Mapping[str, float]]) -> tuple[float | None, list[str]]:
    """The mean of the nine tasks (None while one is missing) and the missing tasks' names.

    `scores`: metrics by task, per cent.

    The score of fewer tasks would be no GLUE score; `gpt1.report` shows it as the mean of those
    that ran.
    """
    missing = [task for task in GLUE_METRICS if task not in scores]
    if missing:
        return None, missing
    return sum(glue_value(task, scores[task]) for task in GLUE_METRICS) / len(GLUE_METRICS), []
