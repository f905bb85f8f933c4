"""What the lines of an outbox say of each run, and which of them still count when they come late.

A host that was cut off may come back with lines nobody has seen, after another host has gone on
with the same runs, and ended them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Entry = dict[str, Any]


@dataclass
class Run:
    """What the entries so far say of one run."""

    session: str = ""
    """The session that started it last."""
    start: Entry | None = None
    open: bool = False
    last: int = 0
    """The latest time stamp, in ms."""
    steps: dict[str, int] = field(default_factory=dict)
    """The highest step of each curve."""
    told: dict[str, dict[str, int]] = field(default_factory=dict)
    """Curve -> session -> the lowest step of it that this session told: from there on it told
    them all.
    """


def fold(runs: dict[str, Run], session: str, entries: Iterable[Entry]) -> None:
    """Add to `runs` what the entries of a session say."""
    for entry in entries:
        run, step = runs.setdefault(entry["uid"], Run()), entry.get("step", 0)
        run.last = max(run.last, entry.get("time", 0))
        if entry["do"] == "metrics":
            for name in entry["values"]:
                run.steps[name] = max(step, run.steps.get(name, step))
                told = run.told.setdefault(name, {})
                told[session] = min(step, told.get(session, step))
        elif session < run.session:
            continue  # from a host that was away: a later session has started it again
        elif entry["do"] == "start":
            run.start, run.open, run.session = entry, True, session
        elif entry["do"] == "end":
            run.open = False


def due(
    runs: Mapping[str, Run], session: str, entries: Iterable[Entry], begun: Callable[[str], bool]
) -> list[Entry]:
    """What is to be sent of a session's entries.

    Of a run that a later session has started again, and has `begun` to send, that is only points;
    and of points only those that no later session has told.
    """
    found = []
    for entry in entries:
        run = runs.get(entry["uid"], Run())
        if entry["do"] == "metrics":
            step = entry["step"]
            values = {
                name: value
                for name, value in entry["values"].items()
                if step < _told_later(run, name, session, step + 1)
            }
            found += [{**entry, "values": values}] if values else []
        elif run.session <= session or not begun(run.session):
            found.append(entry)
    return found


def _told_later(run: Run, name: str, session: str, else_: int) -> int:
    """The step from which on sessions later than this one have told a curve."""
    return min(
        (low for other, low in run.told.get(name, {}).items() if other > session), default=else_
    )
