"""Descriptions of MLflow runs: tables in Markdown, with links to other runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from gpt1.format import number
from pipeline.store.record import ArtifactRecord

GAP = "\u00a0\u00a0 | "  # MLflow draws the columns of a table without a space between them
MOST_FIGURES = 6  # in a table of jobs
CELLS = "cells.json"  # the file with all jobs of a run whose description has no room for them


def link(text: str, run_id: str | None) -> str:
    """A link that MLflow's pages open; the text alone where there is no run."""
    text = text.replace("[", "(").replace("]", ")") if run_id else text
    return f"[{text}](#/runs/{run_id})" if run_id else text


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
    """The head of a table, and its rows."""
    head = f"| {GAP.join(columns)} |\n{'|---' * len(columns)}|"
    return head, [f"| {GAP.join(row)} |" for row in rows]


def comparison(jobs: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """The jobs of a matrix side by side, each with its `axes`, its `figures`, and the id of its
    `run`: what they differ in, links, the first figures.
    """
    names = list(dict.fromkeys(name for job in jobs for name in job["figures"]))[:MOST_FIGURES]
    rows = []
    for job in jobs:
        shown = (number(job["figures"].get(name)) for name in names)
        rows.append([*map(str, job["axes"].values()), link("open", job["run"]), *shown])
    return table([*(jobs[0]["axes"] if jobs else ()), "run", *names], rows)


def fit(head: str, rows: Sequence[str], longest: int) -> tuple[str, int]:
    """As many rows of a table as `longest` characters hold, and how many are left out: a last line
    says that.
    """
    text = "\n".join([head, *rows])
    if len(text) <= longest:
        return text, 0
    last = "\n\nand {} more; " + CELLS + " in the artifacts of this run lists all jobs"
    room = longest - len(head) - len(last.format(len(rows)))
    count = bisect_right(list(accumulate(1 + len(row) for row in rows)), room)
    return "\n".join([head, *rows[:count]]) + last.format(len(rows) - count), len(rows) - count


def job_note(record: ArtifactRecord, inputs: Mapping[str, str | None]) -> str:
    """The description of a job's run: its figures, and links to the runs that made its inputs."""
    summary = record.summary.items()
    figures = [[name, number(value)] for name, value in summary if isinstance(value, int | float)]
    head, rows = table(["metric", ""], figures)
    lines = [head, *rows, ""] if figures else []
    lines += [f"- input: {link(cell, run_id)}" for cell, run_id in inputs.items()]
    return "\n".join([*lines, "", f"fingerprint: `{record.fingerprint}`"])
