"""What the results cost: seconds, cores and GPUs of each job, and which jobs this run ran or took
from the cache.

Everything here depends on the clock and on the machine, so it goes only into files that are
declared volatile.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.report.sources import Source, of_kind

THROUGHPUT, HARDWARE = "throughput.jsonl", "hardware.json"
PAPER_PETAFLOP_DAYS = 0.96  # OpenAI's article on the paper: 1 month on 8 GPUs, 0.96 petaflop/s-days
DAY = 86400e15  # floating-point operations in a petaflop/s-day


def run_cost(sources: Sequence[Source], run: str) -> dict[str, Any]:
    """`cells` (a row each), totals of what `run` ran, and of all jobs behind this report.

    Seconds throughout; `speed` and `hardware` are by pre-training job.
    """
    cells = [_cell(source, run) for source in sources]
    made = [cell for cell in cells if cell["made"]]
    timed = [cell for cell in made if cell["started"] and cell["finished"]]
    trained = of_kind(sources, "pretrain")
    packages = [source.making["packages"] for source in sources if source.making.get("packages")]
    commits = {source.making.get("git_commit") for source in sources}
    return {
        "run": run, "cells": cells, "made": len(made), "taken": len(cells) - len(made),
        "wall_seconds": (
            max(cell["finished"] for cell in timed) - min(cell["started"] for cell in timed)
            if timed else None
        ),
        "core_seconds": total(made, "core_seconds"), "gpu_seconds": total(made, "gpu_seconds"),
        "all_core_seconds": total(cells, "core_seconds"),
        "all_gpu_seconds": total(cells, "gpu_seconds"),
        "speed": {source.cell: speed for source in trained if (speed := _speed(source))},
        "hardware": {source.cell: found for source in trained
                     if (found := source.document(HARDWARE))},
        "packages": packages[-1] if packages else {},
        "commits": sorted(str(commit) for commit in commits if commit),
    }  # fmt: skip


def total(cells: Sequence[Mapping[str, Any]], name: str) -> float:
    """The sum of one figure; what is not known counts as nothing."""
    return sum(cell[name] or 0.0 for cell in cells)


def _cell(source: Source, run: str) -> dict[str, Any]:
    making, resources = source.making, source.making.get("resources") or {}
    seconds = making.get("seconds")
    # "as many workers as fit" counts as one: the least it can have used
    worked = None if seconds is None else seconds * (resources.get("workers") or 1)
    return {
        "cell": source.cell, "made": making.get("run", "") == run, "run": making.get("run"),
        "started": making.get("started"), "finished": making.get("finished"), "seconds": seconds,
        "core_seconds": None if worked is None else worked * resources.get("cpus", 1),
        "gpu_seconds": None if worked is None else worked * resources.get("gpus", 0),
        "parts": making.get("parts") or {"made": 0, "reused": 0},
    }  # fmt: skip


def _speed(source: Source) -> dict[str, float] | None:
    """Tokens per second (the median of the logged intervals) and the petaflop/s-days of the whole
    training.
    """
    rows = [row for row in source.rows(THROUGHPUT) if row.get("tokens_per_second")]
    if not rows:
        return None
    found = {"tokens_per_second": statistics.median_high(row["tokens_per_second"] for row in rows)}
    last, tokens = rows[-1], source.fact("tokens")
    if tokens and last.get("tflops"):
        flops_per_token = last["tflops"] * 1e12 / last["tokens_per_second"]
        found["petaflop_days"] = tokens * flops_per_token / DAY
    return found
