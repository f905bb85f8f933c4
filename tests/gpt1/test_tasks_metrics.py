"""Metrics, baselines and errors against figures worked out by hand or from the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpt1.tasks.metrics import baseline_of, score, standard_error
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
