"""What making the results took: seconds, cores and GPUs of each cell, and which cells this run made
or took as they were.

Everything here depends on the clock and on the machine, so it goes only into files that are
declared volatile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.format import span
from gpt1.report.dag import as_svg, stage_of
from gpt1.report.sources import Source, of_kind

THROUGHPUT = "throughput.jsonl"
PAPER_PETAFLOP_DAYS = 0.96  # OpenAI's article on the paper: 1 month on 8 GPUs, 0.96 petaflop/s-days
DAY = 86400e15  # floating-point operations in a petaflop/s-day


def making_facts(sources: Sequence[Source], run: str) -> dict[str, Any]:
    """`cells` (a row each), totals of what `run` made, and of all that stands behind this report.

    Seconds throughout.
    """
    cells = [_cell(source, run) for source in sources]
    made = [cell for cell in cells if cell["made"]]
    starts = [cell["started"] for cell in made if cell["started"]]
    ends = [cell["finished"] for cell in made if cell["finished"]]
    return {
        "run": run,
        "cells": cells,
        "made": len(made),
        "taken": len(cells) - len(made),
        "wall_seconds": max(ends) - min(starts) if starts and ends else None,
        "core_seconds": _total(made, "core_seconds"),
        "gpu_seconds": _total(made, "gpu_seconds"),
        "all_core_seconds": _total(cells, "core_seconds"),
        "all_gpu_seconds": _total(cells, "gpu_seconds"),
        "speed": {
            source.cell: speed
            for source in of_kind(sources, "pretrain")
            if (speed := _speed(source))
        },
        "packages": next(
            (
                source.making["packages"]
                for source in reversed(sources)
                if source.making.get("packages")
            ),
            {},
        ),
        "commits": sorted(
            {
                str(source.making["git_commit"])
                for source in sources
                if source.making.get("git_commit")
            }
        ),
    }


def _cell(source: Source, run: str) -> dict[str, Any]:
    making = source.making
    seconds, resources = making.get("seconds"), making.get("resources") or {}
    workers = (
        resources.get("workers") or 1
    )  # "as many as fit" counts as one: the least it can have used
    return {
        "cell": source.cell, "made": making.get("run", "") == run, "run": making.get("run"),
        "started": making.get("started"),
        "finished": making.get("finished"), "seconds": seconds,
        "core_seconds": None if seconds is None else seconds * workers * resources.get("cpus", 1),
        "gpu_seconds": None if seconds is None else seconds * workers * resources.get("gpus", 0),
        "parts": making.get("parts") or {"made": 0, "reused": 0},
    }


def _total(cells: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(cell[name] or 0.0 for cell in cells)


def _speed(source: Source) -> dict[str, float] | None:
    """Tokens a second (the median of the logged stretches) and the petaflop/s-days of the whole
    training.
    """
    rows = [row for row in source.volatile_rows(THROUGHPUT) if row.get("tokens_per_second")]
    if not rows:
        return None
    rates = sorted(float(row["tokens_per_second"]) for row in rows)
    last, tokens = rows[-1], source.fact("tokens")
    found = {"tokens_per_second": rates[len(rates) // 2]}
    if tokens and last.get("tflops"):
        found["petaflop_days"] = (
            float(tokens) * last["tflops"] * 1e12 / last["tokens_per_second"] / DAY
        )
    return found


def picture(sources: Sequence[Source], making: Mapping[str, Any]) -> str:
    """The workflow as it was run: ran or cached, seconds, core or GPU time of each stage.

    Empty where no cell says its inputs.
    """
    if not any(source.making.get("inputs") for source in sources):
        return ""
    order = _in_order(sources)
    rows = {row["cell"]: row for row in making["cells"]}
    cells = [
        (
            source.cell,
            "ran" if rows[source.cell]["made"] else "cached",
            [
                need for need in source.making.get("inputs") or {} if need in rows
            ],  # the report need not need all that they do
        )
        for source in order
    ]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for source in order:
        groups.setdefault(stage_of(source.cell), []).append(rows[source.cell])
    return as_svg(cells, {stage: _notes(group) for stage, group in groups.items()})


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cores, gpus = _total(rows, "core_seconds"), _total(rows, "gpu_seconds")
    return [span(_total(rows, "seconds")), f"GPU {span(gpus)}" if gpus else f"core {span(cores)}"]


def _in_order(sources: Sequence[Source]) -> list[Source]:
    """Each after those it needs; an input that is no source of this report is left out."""
    known = {source.cell: source for source in sources}
    done: dict[str, Source] = {}

    def visit(source: Source) -> None:
        if source.cell in done:
            return
        for need in sorted(source.making.get("inputs") or {}):
            if need in known:
                visit(known[need])
        done[source.cell] = source

    for source in sources:
        visit(source)
    return list(done.values())
