"""How far a run is from the paper: its size, its corpus, its tasks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.report.corpus import figure
from gpt1.report.paper_tables import COLUMNS

PAPER_PARAMETERS = 116_534_784  # docs/explanation/faithfulness.md
PAPER_WORDS = 984_846_357  # BooksCorpus (Zhu et al. 2015)
TASKS = tuple(dict.fromkeys(task for number in (2, 3, 4) for _, task, _ in COLUMNS[number] if task))
"""The paper's twelve."""


def distance_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Shares of the paper's parameters and words, and how far the tasks' scores lie from the
    paper's (points).

    `differences`: (heading, ours less the paper's) of every column of tables 2 to 4 that both have.
    None: not known.
    """
    cells = [cell for cell in facts["pretraining"]["cells"] if cell["parameters"]]
    audit = facts["corpus"]["audit"]
    words = audit["trained"]["words"] if audit else figure(facts["corpus"], "clean", "words")
    differences = [
        {"column": heading, "points": value}
        for table in facts["tables"]
        for heading, value in zip(table["columns"], table["difference"], strict=False)
        if value is not None
    ]
    points = [row["points"] for row in differences]
    return {
        "parameters": cells[0]["parameters"] / PAPER_PARAMETERS if cells else None,
        "words": words / PAPER_WORDS if words else None,
        "tasks_tried": sorted({row["task"] for row in facts["tasks"]} & set(TASKS)),
        "tasks_of_paper": len(TASKS), "differences": differences,
        "mean_points": statistics.fmean(points) if points else None,
    }


def share(value: float) -> str:
    """A share as people say it: `1/107`, `1/7.41 million`, `98 %`, `1.2 times`."""
    if value < 1e-6:
        return f"1/{1e-6 / value:,.3g} million"
    if value < 0.1:
        return f"1/{round(1 / value):,}"
    return f"{100 * value:.0f} %" if value < 1.005 else f"{value:.3g} times"


def sentences(distance: Mapping[str, Any]) -> list[str]:
    """The same in words."""
    said = [
        f"{share(distance[name])} of the {what}"
        for name, what in (("parameters", "117 M parameters"), ("words", "985 M words"))
        if distance[name]
    ]
    found = [f"Compared with the paper, this run has {' and '.join(said)}."] if said else []
    rows: Sequence[Mapping[str, Any]] = distance["differences"]
    tried, all_tasks = len(distance["tasks_tried"]), distance["tasks_of_paper"]
    if not rows:
        return [
            *found,
            f"{tried or 'None'} of the paper's {all_tasks} tasks ran.",
        ]
    low, high = min(rows, key=lambda row: row["points"]), max(rows, key=lambda row: row["points"])
    spread = (
        f", from {low['points']:+.1f} ({low['column']}) to {high['points']:+.1f} ({high['column']})"
        if len(rows) > 1
        else ""
    )
    return [
        *found,
        (
            f"{tried} of the paper's {all_tasks} tasks: {distance['mean_points']:+.1f} points on"
            f" average{spread}, our dev scores minus the paper's test scores."
        ),
    ]
