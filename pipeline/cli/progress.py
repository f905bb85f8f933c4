"""Progress of a run: a live view in a terminal, plain lines with the time since the start
anywhere else (a log file, CI).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from gpt1.format import span
from gpt1.terminal import one_line, show
from pipeline.cli.runs import format_figures, headline
from pipeline.execution.observer import Observer, Status
from pipeline.planning.planner import Entry
from pipeline.store.record import ArtifactRecord

QUIET = 10.0  # seconds between two progress lines of one cell in a log


class Display:
    """What the person watching sees.

    Any thread may call it. `total` is the number of cells of the run, for counting them down.
    """

    def __init__(self, total: int | None = None, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._total = total
        self._over = 0
        self._began = time.monotonic()
        self._lock = threading.RLock()
        self._quiet_until: dict[str, float] = {}
        self._whole: dict[str, bool] = {}
        self._tasks: dict[str, TaskID] = {}
        self._live: Progress | None = None
        if self._stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown"):
            self._live = Progress(
                SpinnerColumn("line", finished_text=" "), _Cell(table_column=Column(no_wrap=True)),
                BarColumn(16), _Amount(), TimeElapsedColumn(),
                TextColumn("{task.fields[note]}", markup=False,
                    table_column=Column(ratio=1, no_wrap=True)),
                console=Console(file=self._stream, highlight=False), refresh_per_second=4,
                transient=True, expand=True,
            )  # fmt: skip
            self._live.start()

    def cell_started(self, cell: str, why: str) -> None:
        """A cell begins, and why it must run."""
        with self._lock:
            self._quiet_until[cell] = 0.0
            self._print(cell, f"started: {why}", "cyan")
            if self._live:
                self._drop(cell)
                row = self._live.add_task(one_line(cell), total=None, note="", unit="")
                self._tasks[cell] = row

    def cell_progress(
        self, cell: str, done: float, total: float, unit: str, note: str = ""
    ) -> None:
        """How far it is. In a log: at most a line every QUIET seconds, and the one at the end."""
        with self._lock:
            if self._live:
                if cell in self._tasks:
                    self._live.update(
                        self._tasks[cell], completed=done, total=total or None, unit=unit,
                        note=one_line(note),
                    )
                return
            now, whole = time.monotonic(), total > 0 and done >= total
            before, self._whole[cell] = self._whole.get(cell, False), whole
            if (whole and before) or (not whole and now < self._quiet_until.get(cell, 0.0)):
                return
            self._quiet_until[cell] = now + QUIET
            share = f" ({100 * done / total:.0f}%)" if total else ""
            self._print(cell, f"{done:g} of {total:g} {unit}{share}  {note}")

    def cell_line(self, cell: str, text: str) -> None:
        """A line a stage says."""
        self._print(cell, text)

    def cell_done(self, cell: str, seconds: float, summary_line: str) -> None:
        """A cell has ended well, after so many seconds."""
        more = f": {summary_line}" if summary_line else ""
        self._end(cell, f"done in {span(seconds)}{more}", "green")

    def cell_cached(self, cell: str) -> None:
        """A cell is up to date."""
        self._end(cell, "cached", "dim")

    def cell_failed(self, cell: str, error: str) -> None:
        """A cell has failed; the error in one line."""
        self._end(cell, f"FAILED: {error}", "bold red")

    def cell_ended(self, cell: str, why: str) -> None:
        """A cell has ended before its time, because it was asked to."""
        self._end(cell, why, "yellow")

    def close(self) -> None:
        """Leave the terminal as it was; everything printed stays."""
        if self._live:
            self._live.stop()
            self._live = None

    def _end(self, cell: str, text: str, style: str) -> None:
        with self._lock:
            self._over += 1
            self._drop(cell)
            self._print(cell, text, style, f"[{self._over}/{self._total}] " if self._total else "")

    def _drop(self, cell: str) -> None:
        if self._live and cell in self._tasks:
            self._live.remove_task(self._tasks.pop(cell))

    def _print(self, cell: str, text: str, style: str = "", count: str = "") -> None:
        stamp = f"{span(time.monotonic() - self._began):>8}  "
        with self._lock:
            if self._live:
                named = (one_line(cell), "bold")
                line = Text.assemble((stamp, "dim"), count, named, "  ", (one_line(text), style))
                self._live.console.print(line, soft_wrap=True)
                return
            plain = f"{stamp}{count}{one_line(cell)}  {one_line(text)}"
            show(plain.rstrip(), stream=self._stream)


class _Cell(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description, style="bold")


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        return Text(f"{task.completed:g}/{task.total:g} {task.fields['unit']}", style="cyan")


class RunProgress(Observer):
    """Shows a run on a display."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def job_running(self, entry: Entry) -> None:
        self._display.cell_started(entry.cell.id, "; ".join(entry.reasons))

    def job_progress(
        self, entry: Entry, done: float, total: float, unit: str, note: str = ""
    ) -> None:
        self._display.cell_progress(entry.cell.id, done, total, unit, note)

    def job_info(self, cell: str, text: str) -> None:
        self._display.cell_line(cell, text)

    def job_cached(self, entry: Entry) -> None:
        self._display.cell_cached(entry.cell.id)

    def job_done(self, entry: Entry, record: ArtifactRecord) -> None:
        self._display.cell_done(entry.cell.id, record.seconds, format_figures(headline(record)))

    def job_failed(self, entry: Entry, error: str, status: Status) -> None:
        if status == "KILLED":
            self._display.cell_ended(entry.cell.id, error)
        else:
            self._display.cell_failed(entry.cell.id, error)

    def job_skipped(self, entry: Entry, why: str) -> None:
        self._display.cell_failed(entry.cell.id, f"skipped, because {why}")
