"""The charts of the report, made from its facts and the curves of pre-training.

A chart without points is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpt1.report.corpus_page import sentence_chart
from gpt1.report.curves import Chart, Line, Mark, smooth
from gpt1.report.pretraining import METRICS, PERPLEXITY, series
from gpt1.report.run_cost import THROUGHPUT
from gpt1.report.sources import Source, of_kind


def charts(sources: Sequence[Source], facts: Mapping[str, Any], smoothing: float) -> list[Chart]:
    """All charts that have something to show, in the order of the page."""
    curves = {source.cell: source.rows(METRICS) for source in of_kind(sources, "pretrain")}
    found = [
        _perplexity(curves, facts["pretraining"]),
        _loss(curves, smoothing),
        _of_rows(curves, "lr", "learning-rate", "Learning rate", "learning rate"),
        _of_rows(
            curves, "gradient_norm", "gradient-norm", "Gradient norm before clipping",
            "gradient norm",
        ),
        _zero_shot(facts["zero_shot"]),
        _normalized(facts["zero_shot"]),
        _transfer(facts["transfer"]),
        sentence_chart(facts["corpus"]["audit"]),
    ]
    return [chart for chart in found if chart.lines]


def headline(sources: Sequence[Source], facts: Mapping[str, Any]) -> Chart:
    """The held-out perplexity, small, for the first screen; without lines where none was
    measured.
    """
    curves = {source.cell: source.rows(METRICS) for source in of_kind(sources, "pretrain")}
    return replace(
        _perplexity(curves, facts["pretraining"]), name="headline", y_label="", width=3.4,
        height=2.15,
    )


def throughput(sources: Sequence[Source]) -> Chart:
    """Tokens a second over pre-training: depends on the machine, so it is drawn only in volatile
    pages.
    """
    rows = {
        source.cell: source.volatile_rows(THROUGHPUT) for source in of_kind(sources, "pretrain")
    }
    return _of_rows(rows, "tokens_per_second", "throughput", "Throughput", "tokens/s")


Curves = Mapping[str, list[dict[str, Any]]]


def _perplexity(curves: Curves, pretraining: Mapping[str, Any]) -> Chart:
    lines = []
    for n, (cell, rows) in enumerate(curves.items()):
        if points := series(rows, PERPLEXITY):
            lines.append(Line(cell, *_columns(points), colour=n, dots=len(points) <= 40))
    marks = [
        Mark(name, pretraining[f"{name}_perplexity"])
        for name in ("unigram", "bigram")
        if pretraining[f"{name}_perplexity"]
    ]
    title = "Perplexity on held-out books during pre-training"
    return Chart(
        "perplexity", title, "step", "held-out perplexity", tuple(lines), tuple(marks), log_y=True
    )


def _loss(curves: Curves, smoothing: float) -> Chart:
    lines = []
    for n, (cell, rows) in enumerate(curves.items()):
        if points := series(rows, "loss"):
            x, y = _columns(points)
            lines += [
                Line(f"{cell}, raw", x, y, colour=n, faint=True),
                Line(cell, x, smooth(y, smoothing), colour=n),
            ]
    return Chart(
        "loss", "Training loss, raw and smoothed", "step", "training loss (nats)", tuple(lines)
    )


def _of_rows(curves: Curves, key: str, name: str, title: str, label: str) -> Chart:
    lines = []
    for n, (cell, rows) in enumerate(curves.items()):
        if points := series(rows, key):
            lines.append(Line(cell, *_columns(points), colour=n))
    return Chart(
        name, title, "step", label, tuple(lines), width=3.6, height=2.1
    )  # three of them stand in a row


def _zero_shot(tasks: Sequence[Mapping[str, Any]]) -> Chart:
    lines = [
        Line(
            _name(task), [point["step"] for point in task["points"]],
            [point["score"] for point in task["points"]], n, dots=True,
            dashed=task["model"] == "lstm",
        )
        for n, task in enumerate(task for task in tasks if task["points"])
    ]
    title = "Zero-shot score over pre-training"
    return Chart(
        "zero-shot", title, "pre-training step", "score (%)", tuple(lines), _baselines(tasks)
    )


def _normalized(tasks: Sequence[Mapping[str, Any]]) -> Chart:
    """The paper's figure 2, right."""
    lines = []
    for n, task in enumerate(task for task in tasks if task["points"]):
        points = [
            (point["step"], point["normalized"])
            for point in task["points"]
            if point["normalized"] is not None
        ]
        # A task without an earlier model has no 1.
        if points and task["normalized_against"] != "100":
            lines.append(
                Line(
                    _name(task), *_columns(points), colour=n, dots=True,
                    dashed=task["model"] == "lstm",
                )
            )
    title = "Zero-shot score between random guess (0) and the best earlier single model (1)"
    return Chart(
        "zero-shot-normalized", title, "pre-training step", "normalized score", tuple(lines)
    )


def _name(task: Mapping[str, Any]) -> str:
    return f"{task['title']}, LSTM" if task["model"] == "lstm" else str(task["title"])


def _transfer(rows: Sequence[Mapping[str, Any]]) -> Chart:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(" ".join(filter(None, (row["title"], row["variant"]))), []).append(row)
    lines = []
    for n, (name, group) in enumerate(groups.items()):
        lines.append(
            Line(
                f"{name}, dev", [row["num_layers_transferred"] for row in group],
                [row["score"] for row in group], n, dots=True,
            )
        )
        if trained := [
            (row["num_layers_transferred"], row["train_score"])
            for row in group
            if row["train_score"] is not None
        ]:
            lines.append(
                Line(f"{name}, train", *_columns(trained), colour=n, dots=True, dashed=True)
            )
    title = "Score by the number of transferred layers"
    return Chart(
        "transfer", title, "transferred layers", "score (%)", tuple(lines), _baselines(rows)
    )


def _baselines(rows: Sequence[Mapping[str, Any]]) -> tuple[Mark, ...]:
    return tuple(
        Mark(f"baseline {value:.1f}", value)
        for value in sorted({row["baseline"] for row in rows} - {None})
    )


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
