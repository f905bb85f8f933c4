"""The tables of scores: ours by task, the paper's tables 2 to 5 with our figures, and how far the
run is from the paper.

published.json has the paper's rows, those of later models, and where each comes from.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt1.report.sources import Source, of_kind
from gpt1.tasks.metrics import GLUE_METRICS, glue_score
from gpt1.tasks.registry import TASKS

SCORES, CURVE = "scores.json", "curve.jsonl"
LAYERS = "num_layers_transferred"
"""The setting of a fine-tuning that starts from fewer layers than the model has."""
APART = ("task", "seed", "pretrain_seed", "keep_model")
"""Settings of a fine-tuning that make no row of their own."""
CLEAR = 2.0
"""A score counts as better than its baseline when it is this many standard errors above."""
MAIN = "full"
"""The variant that the paper's tables 2 to 4 show."""

PAPER_PARAMETERS = 116_534_784  # docs/explanation/faithfulness.md
PAPER_WORDS = 984_846_357  # BooksCorpus (Zhu et al. 2015)

PUBLISHED: Mapping[int, Mapping[str, Any]] = {
    int(number): table
    for number, table in json.loads(
        Path(__file__).with_name("published.json").read_text(encoding="utf-8")
    ).items()
}
"""By the table's number: `columns` (heading, task, metric; GLUE's is the score of nine tasks), the
rows of the `paper` and of `others` (test scores in per cent, None where there is no figure), and a
`note` on where they come from and what is left out.
"""
TASKS_OF_PAPER = {task for number in (2, 3, 4) for _, task, _ in PUBLISHED[number]["columns"]} - {
    ""
}
"""The paper's twelve."""

Row = Mapping[str, Any]
Scored = tuple[Source, Row]
"""A job, and the content of its scores.json."""


def finetune_rows(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """A row for each task and variant (the settings that differ among a task's jobs, seeds apart),
    in the order of the jobs; the median where there are several seeds.
    """
    # Whether a job's weights are kept changes no score; by itself the first seed's are.
    jobs = [job for job in of_kind(sources, "finetune") if job.settings.get(LAYERS) is None]
    return _rows(jobs, apart=APART)


def transfer_rows(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """The same for each task and number of transferred layers (the paper's figure 2, left), fewest
    layers first.
    """
    jobs = [job for job in of_kind(sources, "finetune") if job.settings.get(LAYERS) is not None]
    rows = _rows(jobs, apart=(*APART, LAYERS), by=(LAYERS,))
    return sorted(rows, key=lambda row: (row["task"], row["variant"], row[LAYERS]))


def zero_shot_rows(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """A row for each zero-shot task; `points` are its scores over pre-training (the paper's figure
    2, right), earliest first.
    """
    return [_zero_shot(*scored) for scored in _scored(of_kind(sources, "zero_shot"))]


def clearly_better(rows: Sequence[Row]) -> list[Row]:
    """The rows that lie at least `CLEAR` standard errors above their baseline."""
    return [row for row in rows if (row["errors_above_baseline"] or 0.0) >= CLEAR]


def _scored(jobs: Sequence[Source]) -> list[Scored]:
    return [(job, scores) for job in jobs if (scores := job.document(SCORES))]


def _rows(
    jobs: Sequence[Source], apart: tuple[str, ...], by: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    scored = _scored(jobs)
    given = [{"model": "gpt", **job.settings} for job, _ in scored]  # older records name no model
    names = {name for settings in given for name in settings if name not in apart}
    varied = [
        name
        for name in sorted(names)
        if len({json.dumps(settings.get(name), sort_keys=True) for settings in given}) > 1
    ]
    groups: dict[str, list[Scored]] = {}
    for one, settings in zip(scored, given, strict=True):
        key = {name: settings.get(name) for name in ("task", *by, *varied)}
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(one)
    return [_row(group, varied, by) for group in groups.values()]


def _row(group: Sequence[Scored], varied: Sequence[str], by: tuple[str, ...]) -> dict[str, Any]:
    """All jobs of one row; what is not a median is that of the job in the middle."""
    ordered = sorted(group, key=lambda scored: _main_value(scored[1]))
    settings, middle = ordered[0][0].settings, ordered[(len(ordered) - 1) // 2][1]
    values = [_main_value(scores) for _, scores in ordered]
    metric, score = middle["metric"], statistics.median(values)
    baseline, error = middle.get("baseline"), middle.get("standard_error")
    above = (score - baseline) / error if error and baseline is not None else None
    model = settings.get("model", "gpt")
    return {
        **_task(ordered[0][0], middle), "groups": _groups(middle["values"], metric),
        **{setting: settings.get(setting) for setting in by},
        "variant": _variant_of(settings, varied), "metric": metric, "score": score,
        "lowest": values[0], "highest": values[-1], "runs": len(values), "n": middle.get("n"),
        "sample": middle.get("sample", False),
        "variant_setting": settings.get("variant", MAIN) + ("" if model == "gpt" else f", {model}"),
        "train_score": middle.get(f"train_{metric}"), "train_rows": middle.get("train_rows"),
        "official_train_rows": (middle.get("official_rows") or {}).get("train"),
        "medians": _medians([scores for _, scores in group]),
        "test": _medians([scores["test"] for _, scores in group if scores.get("test")]),
        "scored_on": middle.get("scored_on", "dev"), "baseline": baseline,
        "baseline_kind": middle.get("baseline_kind", "baseline"), "standard_error": error,
        "errors_above_baseline": above, "cells": sorted(job.cell for job, _ in group),
        **({"untrained": middle["untrained"]} if "untrained" in middle else {}),
    }  # fmt: skip


def _zero_shot(job: Source, scores: Row) -> dict[str, Any]:
    metric = str(scores["metric"])
    names = ("baseline", "baseline_kind", "standard_error", "n", "sample", "normalized",
             "normalized_against")  # fmt: skip
    points = [
        {"step": int(row["step"]), "score": float(row[metric]), "normalized": row.get("normalized")}
        for row in job.rows(CURVE)
        if metric in row
    ]
    return {
        **_task(job, scores), "cell": job.cell, "model": str(job.settings.get("model", "gpt")),
        "metric": metric, "score": _main_value(scores), "points": points,
        **{name: scores.get(name) for name in names},
    }  # fmt: skip


def _task(job: Source, scores: Row) -> dict[str, Any]:
    """A task's name, title and kind, and the paper's figures for its metric, in per cent (None for
    tasks the paper does not have).
    """
    name, metric = str(job.settings.get("task", job.cell)), str(scores["metric"])
    task = TASKS.get(name)
    if task is None:  # of the user's
        about = {"title": scores.get("title", name), "kind": scores.get("kind", "")}
        return {"task": name, **about, "paper": None, "paper_groups": {}}
    return {
        "task": name, "title": task.title, "kind": task.kind, "paper": task.paper.get(metric),
        "paper_groups": _groups(task.paper, metric),
    }  # fmt: skip


def _main_value(scores: Row) -> float:
    """The value of the metric that is compared, in per cent."""
    return float(scores["values"][scores["metric"]])


def _medians(documents: Sequence[Row]) -> dict[str, float]:
    """The median over the seeds of every metric, in per cent."""
    names = sorted({name for document in documents for name in document["values"]})
    return {
        name: statistics.median(document["values"][name] for document in documents)
        for name in names
    }


def _variant_of(settings: Row, varied: Sequence[str]) -> str:
    known = {name: settings[name] for name in varied if settings.get(name) not in (None, "gpt")}
    named = (f"{'' if name == 'variant' else f'{name}='}{one}" for name, one in known.items())
    return ", ".join(named)


def _groups(values: Mapping[str, float], metric: str) -> dict[str, float]:
    """The values of a task's parts (MNLI's matched and mismatched) by the part's name."""
    parts = ((name.partition("/"), value) for name, value in values.items())
    return {group: value for (of, _, group), value in parts if group and of == metric}


# The paper's tables


def paper_tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All four tables, with our `finetune_rows` in them; `ours` is empty where no column has one.

    Ours are medians over the seeds, on dev; `difference` is ours less the paper's, `gain` ours less
    the best earlier row. Tables 2 to 4 show the variant `full`, table 5 all. GLUE's column stays
    empty until all nine tasks have run.
    """
    found = []
    for number, published in PUBLISHED.items():
        columns = published["columns"]
        variants = sorted({_variant(row) for row in rows}) if number == 5 else [MAIN]
        ours = {name: [_ours(rows, name, task, metric) for _, task, metric in columns]
                for name in variants}
        ours = {name: values for name, values in ours.items() if any(v is not None for v in values)}
        compared: dict[str, list[float | None]] = {"difference": [], "gain": []}
        if number != 5 and MAIN in ours:
            *earlier, paper = [row["values"] for row in published["paper"]]
            best = [max((v for v in column if v is not None), default=None)
                    for column in zip(*earlier, strict=True)]
            compared = {"difference": _less(ours[MAIN], paper), "gain": _less(ours[MAIN], best)}
        found.append({
            "samples": _samples(rows, {task for _, task, _ in columns}), "number": number,
            "columns": [heading for heading, _, _ in columns], "paper": published["paper"],
            "ours": [{"name": f"ours, {name}", "values": row} for name, row in ours.items()],
            "others": published["others"], "note": published["note"], **compared,
        })  # fmt: skip
    return found


def _samples(rows: Sequence[Row], tasks: set[str]) -> list[str]:
    """What was scored on, or trained on, fewer rows than the publisher has: `RTE (600 of 2,490
    training rows, 200 dev rows)`.
    """
    found: dict[str, None] = {}
    for row in rows:
        if row["task"] in tasks and row["sample"]:
            used, official = row["train_rows"], row["official_train_rows"]
            trained = f"{used:,} of {official:,} training rows, " if used and official else ""
            found[f"{row['title']} ({trained}{row['n']:,} dev rows)"] = None
    return list(found)


def _less(ours: Sequence[float | None], others: Sequence[float | None]) -> list[float | None]:
    return [None if a is None or b is None else a - b for a, b in zip(ours, others, strict=True)]


def _variant(row: Row) -> str:
    """The variant alone; a row that differs in other settings too keeps their names, so it is not
    taken for the plain variant.
    """
    return str(row["variant"] if "=" in row["variant"] else row["variant_setting"])


def _ours(rows: Sequence[Row], variant: str, task: str, metric: str) -> float | None:
    medians = {row["task"]: row["medians"] for row in rows if _variant(row) == variant}
    if not task:
        return glue_score({name: one for name, one in medians.items() if name in GLUE_METRICS})[0]
    found: float | None = medians.get(task, {}).get(metric)
    return found


# How far from the paper


def distance_from_paper(
    parameters: int | None, words: int | None, rows: Sequence[Row], tables: Sequence[Row]
) -> dict[str, Any]:
    """Shares of the paper's parameters and words, and how far the tasks' scores lie from the
    paper's (points).

    `differences`: (heading, ours less the paper's) of every column of tables 2 to 4 that both have.
    None: not known.
    """
    differences = [
        {"column": heading, "points": value}
        for table in tables
        for heading, value in zip(table["columns"], table["difference"], strict=False)
        if value is not None
    ]
    points = [row["points"] for row in differences]
    return {
        "parameters": parameters / PAPER_PARAMETERS if parameters else None,
        "words": words / PAPER_WORDS if words else None,
        "tasks_tried": sorted({row["task"] for row in rows} & TASKS_OF_PAPER),
        "tasks_of_paper": len(TASKS_OF_PAPER), "differences": differences,
        "mean_points": statistics.fmean(points) if points else None,
    }  # fmt: skip
