"""Metrics, baselines and errors against figures worked out by hand or from the definitions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from gpt1.tasks.metrics import baseline_of, f1, matthews, pearson, score, spearman, standard_error
from gpt1.tasks.table import TASKS


def test_f1_and_accuracy() -> None:
    found = score(TASKS["mrpc"], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
    assert found.values == pytest.approx({"f1": 100 * 2 / 3, "accuracy": 60.0})
    assert found.baseline == pytest.approx(100 * 2 * 0.6 / 1.6)  # always class 1: precision 0.6, recall 1
    assert found.standard_error_kind == "bootstrap"


def test_matthews_is_the_correlation_of_two_binary_variables() -> None:
    labels, predictions = [1, 1, 1, 0, 0, 1, 0, 1], [1, 0, 1, 0, 1, 1, 0, 1]
    found = score(TASKS["cola"], labels, predictions)
    assert found.main == pytest.approx(100 * np.corrcoef(labels, predictions)[0, 1])
    assert (found.baseline, found.baseline_kind) == (0.0, "constant")
    assert score(TASKS["cola"], labels, [1] * 8).main == 0.0


def test_correlations() -> None:
    labels, predictions = [0.0, 1.5, 3.0, 5.0], [0.1, 1.0, 4.0, 4.5]
    found = score(TASKS["stsb"], labels, predictions)
    assert found.values["pearson"] == pytest.approx(100 * np.corrcoef(labels, predictions)[0, 1])
    assert found.values["spearman"] == pytest.approx(100.0)
    assert score(TASKS["stsb"], labels, [2.0] * 4).values == {"pearson": 0.0, "spearman": 0.0}


def test_groups_are_scored_by_themselves() -> None:
    found = score(TASKS["race"], [0, 1, 2, 3], [0, 1, 0, 0], ["middle", "middle", "high", "high"])
    assert found.values == {"accuracy": 50.0, "accuracy/middle": 100.0, "accuracy/high": 0.0}


def test_baselines() -> None:
    assert baseline_of(TASKS["race"], np.array([0, 0, 0, 1])) == (25.0, "chance")
    assert baseline_of(TASKS["rte"], np.array([0, 0, 0, 1])) == (75.0, "majority")


def test_the_error_of_an_accuracy_is_binomial() -> None:
    labels, predictions = np.array([1] * 200), np.array([1] * 150 + [0] * 50)
    error, kind = standard_error("accuracy", labels, predictions, 1)
    assert kind == "binomial"
    assert error == pytest.approx(100 * math.sqrt(0.75 * 0.25 / 200), rel=0.01)
    assert standard_error("accuracy", labels, labels, 1)[0] > 0


def test_the_bootstrap_agrees_with_the_binomial_where_both_apply() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    predictions = np.where(rng.random(400) < 0.8, labels, 1 - labels)
    error, kind = standard_error("f1", labels, predictions, 1)
    assert kind == "bootstrap"
    assert 1.0 < error < 3.5
    assert error == standard_error("f1", labels, predictions, 1)[0]


def test_standard_errors_above_the_baseline() -> None:
    found = score(TASKS["demo_choice"], [0, 1] * 200, [0, 1] * 140 + [1, 0] * 60)
    assert found.main == 70.0
    assert found.above_baseline == pytest.approx(20 / found.standard_error)


def classes(highest: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Labels and predictions of all sizes and degrees of agreement; also constant ones."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, highest + 1, rng.integers(1, 700))
        drawn = rng.integers(0, highest + 1, len(labels))
        yield labels, np.where(rng.random(len(labels)) < rng.random(), labels, drawn)
    for label in (0, 1):
        for prediction in (0, 1):
            yield np.full(9, label), np.full(9, prediction)
        yield np.full(4, label), np.array([0, 1, 1, 0])


def test_f1_and_matthews_are_scikit_learns_to_the_bit() -> None:
    for labels, predictions in classes(1):
        assert f1(labels, predictions) == f1_score(labels, predictions, zero_division=0.0)
        assert f1(labels, predictions.astype(float)) == f1(labels, predictions)
    for highest in (1, 3):
        for labels, predictions in classes(highest):
            constant = len(set(labels)) == 1 or len(set(predictions)) == 1
            expected = 0.0 if constant else matthews_corrcoef(labels, predictions)
            assert matthews(labels, predictions) == expected


def numbers() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores like STS-B's, in steps of 0.2, and predictions: free, tied, far off, huge."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 26, rng.integers(3, 1500)) / 5
        free = labels + rng.normal(0, 2, len(labels))
        for predictions in (free, np.round(free), 1e6 + free, 1e200 * free):
            if np.ptp(labels) and np.ptp(predictions):
                yield labels, predictions


def test_correlations_are_scipys() -> None:
    for labels, predictions in numbers():
        for ours, theirs in ((pearson, pearsonr), (spearman, spearmanr)):
            expected = theirs(labels, predictions).statistic
            assert ours(labels, predictions) == pytest.approx(expected, rel=0, abs=1e-12)


def test_the_correlation_of_a_constant_is_0_and_that_of_a_nan_is_nan() -> None:
    labels, nothing = np.array([0.0, 1.0, 2.0]), np.array([0.5, np.nan, 1.0])
    for correlation in (pearson, spearman):
        assert correlation(labels, np.full(3, 2.5)) == correlation(np.full(3, 2.5), labels) == 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert math.isnan(correlation(labels, nothing))
