"""What the report says of the tasks: scores beside baselines and the paper's figures; the median
where there are several seeds.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.report.sources import Source, of_kind
from gpt1.tasks.registry import TASKS

SCORES, CURVE = "scores.json", "curve.jsonl"
CLEAR = 2.0
"""A score counts as better than its baseline when it lies this many standard errors above."""


def finetune_facts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """A row for each task and variant (the settings that differ among a task's cells, seeds
    apart), in the order of the cells.
    """
    # Whether a cell's weights are kept changes no score; by itself the first seed's are.
    cells = [cell for cell in of_kind(sources, "finetune") if _layers(cell) is None]
    return _rows(cells, apart=("task", "seed", "keep_model"))


def transfer_facts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The same for each task and number of transferred layers (the paper's figure 2, left),
    fewest layers first.
    """
    name = "num_layers_transferred"
    cells = [cell for cell in of_kind(sources, "finetune") if _layers(cell) is not None]
    rows = _rows(cells, apart=("task", "seed", "keep_model", name), by=(name,))
    return sorted(rows, key=lambda row: (row["task"], row["variant"], row[name]))


def _layers(cell: Source) -> int | None:
    """How many layers were transferred; None: all of them."""
    found: int | None = cell.settings.get("num_layers_transferred")
    return found


def _rows(
    cells: Sequence[Source], apart: tuple[str, ...], by: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    scored = [(cell, document) for cell in cells if (document := cell.document(SCORES))]
    varied = _varied([cell.settings for cell, _ in scored], apart)
    groups: dict[str, list[tuple[Source, Mapping[str, Any]]]] = {}
    for cell, document in scored:
        key = {name: cell.settings.get(name) for name in ("task", *by, *varied)}
        groups.setdefault(json.dumps(key, sort_keys=True), []).append((cell, document))
    return [_row(group, varied, by) for group in groups.values()]


def _varied(settings: Sequence[Mapping[str, Any]], apart: tuple[str, ...]) -> list[str]:
    """Names of settings that are not the same in all cells."""
    names = sorted({name for one in settings for name in one if name not in apart})
    return [
        name
        for name in names
        if len({json.dumps(one.get(name), sort_keys=True) for one in settings}) > 1
    ]


def _row(
    group: Sequence[tuple[Source, Mapping[str, Any]]], varied: Sequence[str], by: tuple[str, ...]
) -> dict[str, Any]:
    ordered = sorted(group, key=lambda item: main_value(item[1]))
    first, middle = ordered[0][0], ordered[(len(ordered) - 1) // 2][1]
    values = [main_value(document) for _, document in ordered]
    score, baseline, error = (
        statistics.median(values), middle.get("baseline"), middle.get("standard_error"),
    )
    name = str(first.settings.get("task", first.cell))
    return {
        "task": name,
        **_descriptor(name, middle),
        "groups": _groups(middle["values"], str(middle["metric"])),
        **{setting: first.settings.get(setting) for setting in by},
        "variant": _variant(first.settings, varied),
        "metric": middle["metric"],
        "score": score,
        "lowest": values[0],
        "highest": values[-1],
        "runs": len(values),
        "n": middle.get("n"),
        "sample": middle.get("sample", False),
        "variant_setting": str(first.settings.get("variant", "full")),
        "train_score": middle.get(f"train_{middle['metric']}"),
        "train_rows": middle.get("train_rows"),
        "official_train_rows": (middle.get("official_rows") or {}).get("train"),
        "medians": _medians([document for _, document in group]),
        "test": _medians([document["test"] for _, document in group if document.get("test")]),
        "scored_on": middle.get("scored_on", "dev"),
        "baseline": baseline,
        "baseline_kind": middle.get("baseline_kind", "baseline"),
        "standard_error": error,
        "errors_above_baseline": (
            (score - baseline) / error if error and baseline is not None else None
        ),
        "cells": sorted(cell.cell for cell, _ in group),
    }


def _medians(documents: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The median over the seeds of every metric, in per cent."""
    names = sorted({name for document in documents for name in document["values"]})
    return {
        name: statistics.median(document["values"][name] for document in documents)
        for name in names
    }


def _variant(settings: Mapping[str, Any], varied: Sequence[str]) -> str:
    told = [name for name in varied if settings.get(name) is not None]
    return ", ".join(
        str(settings[name]) if name == "variant" else f"{name}={settings[name]}" for name in told
    )


def _groups(values: Mapping[str, float], metric: str) -> dict[str, float]:
    """The values of a task's parts (MNLI's matched and mismatched) by the part's name."""
    return {
        name.partition("/")[2]: value
        for name, value in values.items()
        if name.startswith(f"{metric}/")
    }


def main_value(document: Mapping[str, Any]) -> float:
    """The value of the metric that is compared, in per cent."""
    return float(document["values"][document["metric"]])


def _descriptor(name: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    """A task's title, kind and the paper's figures for its metric, in per cent (None for the
    tasks the paper does not have).
    """
    task, metric = TASKS.get(name), str(scores["metric"])
    if task is None:  # of the user's
        return {
            "title": scores.get("title", name), "kind": scores.get("kind", ""), "paper": None,
            "paper_groups": {},
        }
    return {
        "title": task.title, "kind": task.kind, "paper": task.paper.get(metric),
        "paper_groups": _groups(task.paper, metric),
    }


def clearly_better(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that lie at least `CLEAR` standard errors above their baseline."""
    return [row for row in rows if (row["errors_above_baseline"] or 0.0) >= CLEAR]


def zero_shot_facts(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """For each zero-shot task its scores over pre-training (the paper's figure 2, right):
    [{"step", "score"}], earliest first.
    """
    cells = [
        (cell, document)
        for cell in of_kind(sources, "zero_shot")
        if (document := cell.document(SCORES))
    ]
    return [_zero_shot(cell, document) for cell, document in cells]


def _zero_shot(cell: Source, document: Mapping[str, Any]) -> dict[str, Any]:
    name, metric = str(cell.settings.get("task", cell.cell)), str(document["metric"])
    return {
        "task": name,
        **_descriptor(name, document),
        "cell": cell.cell,
        "model": str(cell.settings.get("model", "gpt")),
        "metric": metric,
        "score": main_value(document),
        **{
            key: document.get(key)
            for key in ("baseline", "baseline_kind", "standard_error", "n", "sample", "normalized")
        },
        "normalized_against": document.get("normalized_against"),
        "points": [
            {
                "step": int(row["step"]), "score": float(row[metric]),
                "normalized": row.get("normalized"),
            }
            for row in cell.rows(CURVE)
            if metric in row
        ],
    }
