"""The official metrics, in per cent, with a baseline and a standard error (SPEC section 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt1.tasks.table import Task

RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """A task's score on one set of `n` examples; all figures in per cent. `groups` holds the parts' values."""

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
        """How many standard errors the score lies above the baseline; 0 where the error is 0 (a constant prediction)."""
        return (self.main - self.baseline) / self.standard_error if self.standard_error else 0.0

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        return {
            "metric": self.metric, "values": dict(self.values), "baseline": self.baseline, "baseline_kind": self.baseline_kind,
            "standard_error": self.standard_error, "standard_error_kind": self.standard_error_kind, "n": self.n,
            "standard_errors_above_baseline": self.above_baseline,
        }  # fmt: skip


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of right predictions."""
    return float(np.mean(labels == predictions))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1; 0 where nothing is predicted to be in it."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0.0))


def matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Matthews' correlation; 0 where one side is constant."""
    from sklearn.metrics import matthews_corrcoef

    return 0.0 if _constant(labels, predictions) else float(matthews_corrcoef(labels, predictions))


def pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    from scipy.stats import pearsonr

    return 0.0 if _constant(labels, predictions) else float(pearsonr(labels, predictions).statistic)


def spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    from scipy.stats import spearmanr

    return 0.0 if _constant(labels, predictions) else float(spearmanr(labels, predictions).statistic)


def _constant(*sides: np.ndarray) -> bool:
    return any(bool(np.ptp(side) == 0) for side in sides)


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def score(task: Task, labels: Sequence[float], predictions: Sequence[float], groups: Sequence[str] = (), seed: int = 0) -> Score:
    """All metrics of the task, of the whole set and (as `metric/group`) of its groups."""
    truth, found = np.asarray(labels), np.asarray(predictions)
    values = {metric: 100 * METRICS[metric](truth, found) for metric in task.metrics}
    for group in sorted(set(groups) - {""}):
        inside = np.asarray([name == group for name in groups])
        values.update({f"{metric}/{group}": 100 * METRICS[metric](truth[inside], found[inside]) for metric in task.metrics})
    main = task.metrics[0]
    baseline, baseline_kind = baseline_of(task, truth)
    error, error_kind = standard_error(main, truth, found, seed)
    return Score(main, values, baseline, baseline_kind, error, error_kind, len(truth))


def baseline_of(task: Task, labels: np.ndarray) -> tuple[float, str]:
    """What needs no model, in per cent, for the task's first metric, and its name."""
    main = task.metrics[0]
    if main == "f1":
        return 100 * f1(labels, np.ones_like(labels)), "always class 1"
    if main != "accuracy":
        return 0.0, "constant"
    if task.kind == "last_word":
        return 0.0, "chance"  # one word of all
    if task.choices:
        return 100 / task.choices, "chance"
    return 100 * float(np.unique(labels, return_counts=True)[1].max() / len(labels)), "majority"


def standard_error(metric: str, labels: np.ndarray, predictions: np.ndarray, seed: int) -> tuple[float, str]:
    """In per cent: binomial for accuracy, else the spread over 1,000 resamples of the examples with replacement."""
    n = len(labels)
    if metric == "accuracy":
        # With one right and one wrong answer added, so that a perfect score of few examples is not taken for certain.
        share = (accuracy(labels, predictions) * n + 1) / (n + 2)
        return 100 * math.sqrt(share * (1 - share) / n), "binomial"
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, n, n) for _ in range(RESAMPLES)]
    return 100 * float(np.std([METRICS[metric](labels[draw], predictions[draw]) for draw in draws], ddof=1)), "bootstrap"
