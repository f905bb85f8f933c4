"""Metrics against scikit-learn and SciPy; baselines, standard errors and GLUE's score by hand.

And what is handed in: the server's file names, headers and labels, and the same zip every time.
"""

import io
import json
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from gpt1.tasks.io import Example
from gpt1.tasks.metrics import (
    GLUE_METRICS,
    baseline_of,
    f1,
    glue_score,
    glue_value,
    matthews,
    pearson,
    score,
    spearman,
    standard_error,
)
from gpt1.tasks.registry import TASKS
from gpt1.tasks.submission import GLUE_FILES, forms, glue_zip

Metric = Callable[..., Any]


def classes(highest: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Labels and predictions of all sizes and degrees of agreement; also constant ones."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, highest + 1, rng.integers(1, 700))
        drawn = rng.integers(0, highest + 1, len(labels))
        yield labels, np.where(rng.random(len(labels)) < rng.random(), labels, drawn)
    for label in (0, 1):
        yield np.full(9, label), np.full(9, label)
        yield np.full(9, label), np.full(9, 1 - label)
        yield np.full(4, label), np.array([0, 1, 1, 0])


def test_f1_and_matthews_are_scikit_learns_to_the_bit() -> None:
    for labels, predictions in classes(1):
        assert f1(labels, predictions) == f1_score(labels, predictions, zero_division=0.0)
        assert f1(labels, predictions.astype(float)) == f1(labels, predictions)
    for labels, predictions in (*classes(1), *classes(3)):
        constant = len(set(labels)) == 1 or len(set(predictions)) == 1
        expected = 0.0 if constant else matthews_corrcoef(labels, predictions)
        assert matthews(labels, predictions) == expected


def numbers() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Scores like STS-B's, in steps of 0.2, and predictions: free, tied, far off, huge."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 26, rng.integers(3, 1500)) / 5
        free = labels + rng.normal(0, 2, len(labels))
        for predictions in (free, np.round(free), 1e6 + free, 1e200 * free):
            if np.ptp(labels) and np.ptp(predictions):
                yield labels, predictions


@pytest.mark.parametrize(("ours", "theirs"), [(pearson, pearsonr), (spearman, spearmanr)])
def test_correlations_are_scipys(ours: Metric, theirs: Metric) -> None:
    for labels, predictions in numbers():
        expected = theirs(labels, predictions).statistic
        assert ours(labels, predictions) == pytest.approx(expected, rel=0, abs=1e-12)
    labels, constant = np.array([0.0, 1.0, 2.0]), np.full(3, 2.5)
    assert ours(labels, constant) == ours(constant, labels) == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert math.isnan(ours(labels, np.array([0.5, np.nan, 1.0])))


def test_each_task_has_its_figures_baseline_and_groups() -> None:
    mrpc = score(TASKS["mrpc"], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0])
    assert mrpc.values == pytest.approx({"f1": 100 * 2 / 3, "accuracy": 60.0})
    assert mrpc.baseline == pytest.approx(100 * 2 * 0.6 / 1.6)  # always 1: precision 0.6, recall 1
    cola = score(TASKS["cola"], [1, 0, 1, 0], [1, 0, 1, 0])
    assert (cola.main, cola.baseline, cola.baseline_kind) == (100.0, 0.0, "constant")
    stsb = score(TASKS["stsb"], [0.0, 1.5, 3.0, 5.0], [0.1, 1.0, 4.0, 4.5])
    assert (stsb.metric, stsb.values["spearman"]) == ("pearson", pytest.approx(100.0))
    groups = ["middle", "middle", "high", "high"]
    race = score(TASKS["race"], [0, 1, 2, 3], [0, 1, 0, 0], groups)
    assert race.values == {"accuracy": 50.0, "accuracy/middle": 100.0, "accuracy/high": 0.0}
    assert baseline_of(TASKS["race"], np.array([0, 0, 0, 1])) == (25.0, "chance")
    assert baseline_of(TASKS["rte"], np.array([0, 0, 0, 1])) == (75.0, "majority")


def test_standard_errors_are_binomial_of_an_accuracy_and_by_bootstrap_of_the_rest() -> None:
    labels, predictions = np.array([1] * 200), np.array([1] * 150 + [0] * 50)
    expected = pytest.approx(100 * math.sqrt(0.75 / 4 / 200), rel=0.01)
    assert standard_error("accuracy", labels, predictions, 1) == (expected, "binomial")
    assert standard_error("accuracy", labels, labels, 1)[0] > 0
    labels, predictions = np.array([0, 1] * 200), np.array([0, 1] * 160 + [1, 0] * 40)
    error, kind = standard_error("f1", labels, predictions, 1)
    assert (1.0 < error < 3.5, kind) == (True, "bootstrap")
    assert standard_error("f1", labels, predictions, 1) == (error, kind)
    found = score(TASKS["demo_choice"], [0, 1] * 200, [0, 1] * 140 + [1, 0] * 60)
    assert found.main == 70.0
    assert found.above_baseline == pytest.approx(20 / found.standard_error)


def test_glues_score_is_the_mean_of_its_tasks_and_the_papers_is_72_8() -> None:
    assert glue_value("mrpc", {"f1": 80.0, "accuracy": 70.0}) == 75.0
    mnli = {"accuracy": 1.0, "accuracy/matched": 82.0, "accuracy/mismatched": 80.0}
    assert glue_value("mnli", mnli) == 81.0
    scores = {task: TASKS[task].paper for task in GLUE_METRICS}
    found, missing = glue_score(scores)
    assert found is not None
    assert (round(found, 1), missing) == (72.8, [])
    del scores["wnli"]
    assert glue_score(scores) == (None, ["wnli"])


Labels = dict[str, list[str]]
FORMS: list[tuple[str, list[float], Labels]] = [
    ("cola", [1, 0, 1], {"CoLA.tsv": ["1", "0", "1"]}),
    ("rte", [1, 0], {"RTE.tsv": ["not_entailment", "entailment"]}),
    ("stsb", [3.14159, -0.2, 5.4], {"STS-B.tsv": ["3.142", "0.000", "5.000"]}),
    ("snli", [1, 0], {}),
    ("mnli", [0, 1, 2, 0],  # each counted from zero
     {"MNLI-m.tsv": ["entailment", "neutral"], "MNLI-mm.tsv": ["contradiction", "entailment"]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "predictions", "expected"), FORMS)
def test_files_of_the_server(name: str, predictions: list[float], expected: Labels) -> None:
    groups = ["matched"] * 2 + ["mismatched"] * 2 if name == "mnli" else [""] * len(predictions)
    rows = [Example(f"test-{n}", ("A.", "B."), group=one) for n, one in enumerate(groups)]
    found = {}
    for file, content in forms(TASKS[name], rows, predictions).items():
        header, *lines = (line.split("\t") for line in content.decode().splitlines())
        assert header == ["index", "prediction"]
        assert [line[0] for line in lines] == [str(n) for n in range(len(lines))]
        found[file] = [line[1] for line in lines]
    assert found == expected


def test_story_cloze_and_race_have_the_published_files_forms() -> None:
    endings = [Example(name, ("S.",), ("x", "y")) for name in ("abc", "def")]
    content = b"InputStoryid,AnswerRightEnding\nabc,2\ndef,1\n"
    assert forms(TASKS["storycloze"], endings, [1, 0]) == {"StoryCloze.csv": content}
    names = ("high-12-0", "high-12-1", "middle-7-0")
    questions = [Example(n, ("D", "Q"), tuple("abcd"), 0, n.split("-")[0]) for n in names]
    [content] = forms(TASKS["race"], questions, [3, 0, 1]).values()
    assert json.loads(content) == {"high/12.txt": ["D", "A"], "middle/7.txt": ["B"]}


def test_the_zip_holds_the_servers_names_and_is_the_same_every_time() -> None:
    files = {name: b"index\tprediction\n" for task in GLUE_FILES.values() for name in task.values()}
    packed = glue_zip(files)
    assert packed == glue_zip(dict(reversed(files.items())))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files
