"""What making a cell again costs, from the records: its own seconds, and those of all that
depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpt1.wording import counted, span
from pipeline.planning.planner import Entry, Plan


@dataclass(frozen=True)
class Cost:
    """Of making one cell again.

    `after`: the jobs that depend on it, directly or not; None: no record says how long one takes.
    """

    own: float | None
    after: tuple[str, ...]
    after_seconds: float
    unknown: int
    """How many of the cells in `after` have no record."""


def costs(plan: Plan) -> dict[str, Cost]:
    """For every cell of the plan."""
    below: dict[str, set[str]] = {cell: set() for cell in plan.entries}
    for cell, entry in reversed(list(plan.entries.items())):
        for need in entry.cell.needs:
            below[need] |= {cell, *below[cell]}
    return {cell: _cost(plan.entries, cell, below[cell]) for cell in plan.entries}


def _cost(entries: Mapping[str, Entry], cell: str, below: set[str]) -> Cost:
    after = tuple(name for name in entries if name in below)
    known = [seconds for name in after if (seconds := entries[name].cost) is not None]
    return Cost(entries[cell].cost, after, sum(known), len(after) - len(known))


def explained(plan: Plan) -> list[str]:
    """A few lines for each cell: its state, each reason on a line of its own, what it needs,
    what a rerun costs.
    """
    found: list[str] = []
    for cell, cost in costs(plan).items():
        entry = plan.entries[cell]
        found.append(f"{cell}: {entry.state}")
        found += [
            f"    why: {reason}"
            for reason in [*entry.reasons, *entry.notes]
            if reason != entry.state
        ]
        if entry.cell.needs:
            found.append(f"    needs: {', '.join(entry.cell.needs)}")
        found.append(f"    rerun cost: {_words(cost)}")
    return found


def _words(cost: Cost) -> str:
    own = "unknown" if cost.own is None else span(cost.own)
    if not cost.after:
        return own
    more = f", {cost.unknown} of them unknown" if cost.unknown else ""
    return (
        f"{own} (+{span(cost.after_seconds)} downstream, {counted(len(cost.after), 'job')}{more})"
    )
