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
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from gpt1.format import span
from gpt1.terminal import one_line, show
from pipeline.cli.runs import format_figures, headline
from pipeline.execution.observer import Observer, Status
from pipeline.planning.planner import Entry
from pipeline.store.record import ArtifactRecord

QUIET = 10.0  # seconds between two progress lines of one job in a log


class Display:
    """What the person watching sees of jobs, by their names.

    Any thread may call it. `total` is the number of jobs of the run, for counting them down.
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
                SpinnerColumn("line", finished_text=" "), _text("description", "bold"),
                BarColumn(16), _text("fields[amount]", "cyan"), TimeElapsedColumn(),
                _text("fields[note]", ratio=1),
                console=Console(file=self._stream, highlight=False), refresh_per_second=4,
                transient=True, expand=True,
            )  # fmt: skip
            self._live.start()

    def start(self, job: str, why: str) -> None:
        """A job begins, and why it must run."""
        with self._lock:
            self._quiet_until[job] = 0.0
            self.line(job, f"started: {why}", "cyan")
            if self._live:
                self._drop(job)
                row = self._live.add_task(one_line(job), total=None, amount="", note="")
                self._tasks[job] = row

    def progress(self, job: str, done: float, total: float, unit: str, note: str = "") -> None:
        """How far it is. In a log: at most a line every QUIET seconds, and the one at the end."""
        with self._lock:
            if self._live:
                if job in self._tasks:
                    self._live.update(
                        self._tasks[job], completed=done, total=total or None, note=one_line(note),
                        amount=f"{done:g}/{total:g} {unit}" if total else "",
                    )  # fmt: skip
                return
            now, whole = time.monotonic(), total > 0 and done >= total
            before, self._whole[job] = self._whole.get(job, False), whole
            if (whole and before) or (not whole and now < self._quiet_until.get(job, 0.0)):
                return
            self._quiet_until[job] = now + QUIET
            share = f" ({100 * done / total:.0f}%)" if total else ""
            self.line(job, f"{done:g} of {total:g} {unit}{share}  {note}")

    def end(self, job: str, how: str, style: str) -> None:
        """A job has ended, or does not run; how."""
        with self._lock:
            self._over += 1
            self._drop(job)
            self.line(job, how, style, f"[{self._over}/{self._total}] " if self._total else "")

    def line(self, job: str, text: str, style: str = "", count: str = "") -> None:
        """A line about a job, after `count`."""
        stamp = f"{span(time.monotonic() - self._began):>8}  "
        with self._lock:
            if self._live:
                named = (one_line(job), "bold")
                line = Text.assemble((stamp, "dim"), count, named, "  ", (one_line(text), style))
                self._live.console.print(line, soft_wrap=True)
                return
            plain = f"{stamp}{count}{one_line(job)}  {one_line(text)}"
            show(plain.rstrip(), stream=self._stream)

    def close(self) -> None:
        """Leave the terminal as it was; everything printed stays."""
        if self._live:
            self._live.stop()
            self._live = None

    def _drop(self, job: str) -> None:
        if self._live and job in self._tasks:
            self._live.remove_task(self._tasks.pop(job))


def _text(name: str, style: str = "none", ratio: int | None = None) -> TextColumn:
    """A column with an attribute of the task."""
    column = Column(no_wrap=True, ratio=ratio)
    return TextColumn(f"{{task.{name}}}", style, markup=False, table_column=column)


class RunProgress(Observer):
    """Shows a run on a display."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def job_running(self, entry: Entry) -> None:
        self._display.start(entry.cell.id, "; ".join(entry.reasons))

    def job_progress(
        self, entry: Entry, done: float, total: float, unit: str, note: str = ""
    ) -> None:
        self._display.progress(entry.cell.id, done, total, unit, note)

    def job_info(self, cell: str, text: str) -> None:
        self._display.line(cell, text)

    def job_cached(self, entry: Entry) -> None:
        self._display.end(entry.cell.id, "cached", "dim")

    def job_done(self, entry: Entry, record: ArtifactRecord) -> None:
        figures = headline(record)
        more = f": {format_figures(figures)}" if figures else ""
        self._display.end(entry.cell.id, f"done in {span(record.seconds)}{more}", "green")

    def job_failed(self, entry: Entry, error: str, status: Status) -> None:
        stopped, failed = (error, "yellow"), (f"FAILED: {error}", "bold red")
        self._display.end(entry.cell.id, *(stopped if status == "KILLED" else failed))

    def job_skipped(self, entry: Entry, why: str) -> None:
        self._display.end(entry.cell.id, f"FAILED: skipped, because {why}", "bold red")
