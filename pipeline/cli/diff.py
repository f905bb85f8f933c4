"""`gpt1 diff RUN RUN`: what two runs of a store did differently: settings, inputs, code,
results, time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from gpt1.errors import UserError
from gpt1.wording import number, span
from pipeline.cli.options import (
    Assignments,
    FileToRead,
    Json,
    Profile,
    StoreOption,
    read_artifacts,
)
from pipeline.planning.planner import changes
from pipeline.store.base import Store
from pipeline.store.record import ArtifactRecord
from pipeline.store.snapshot import StoreSnapshot

SAME = "same"


def diff(
    before: Annotated[
        str | None,
        typer.Argument(
            help="Run, by name or prefix; default: the newest other run with the same stages."
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Argument(
            help="Run to compare it with; default: the last, or the jobs of --profile and --set."
        ),
    ] = None,
    file: FileToRead = None,
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
    as_json: Json = False,
) -> None:
    """Compare two runs job by job: settings, inputs, code, results, time.

    A run covers the jobs it ran and the cached jobs they depend on.
    """
    records: list[ArtifactRecord] = sorted(
        StoreSnapshot(Store.existing(store)).history(), key=lambda record: record.finished
    )
    names = sorted({record.run for record in records if record.run})
    new: Mapping[str, ArtifactRecord]
    if after is None:
        found = read_artifacts(file, profile, assignments, store)
        new = {cell: record for cell in found.cells if (record := found.record(cell))}
        if not new:
            raise UserError(
                f"diff: no job of {found.name} is done; give two of these runs: {_known(names)}"
            )
        second = max(new.values(), key=lambda record: record.finished).run
    elif file or profile or assignments:
        raise UserError(
            "diff: found a second run and --file, --profile, or --set; give one or the other"
        )
    else:
        second = _run(after, names)
        new = cells_of(second, records)
    first = _run(before, names) if before else _with_stages_of(new, second, names, records)
    old = cells_of(first, records) if first else {}
    if before is None:  # the other run may have gone further
        old = {cell: record for cell, record in old.items() if _stages([cell]) <= _stages(new)}
    rows = compare(old, new) if first else []
    if as_json:
        print(json.dumps({"before": first, "after": second, "cells": rows}, indent=1))
        return
    if first is None:
        print(
            f"{second}: no other run in the store has the same stages, so there is nothing to"
            " compare"
        )
        return
    print(f"{first} -> {second}")
    for row in rows:
        if row["how"] != SAME:
            print(
                "\n".join(
                    [f"{row['cell']}: {row['how']}", *(f"    {line}" for line in row["changes"])]
                )
            )
    same = [row["cell"] for row in rows if row["how"] == SAME]
    print(f"same: {', '.join(same) or 'nothing'}")


def compare(
    before: Mapping[str, ArtifactRecord], after: Mapping[str, ArtifactRecord]
) -> list[dict[str, Any]]:
    """A row a cell.

    `how`: same, changed, only in one of the runs; `changes`: in words, settings and inputs before
    figures.
    """
    rows: list[dict[str, Any]] = []
    for cell in sorted({*before, *after}):
        old, new = before.get(cell), after.get(cell)
        if old is None or new is None:
            rows.append(
                {
                    "cell": cell,
                    "how": "only in the second run" if old is None else "only in the first run",
                    "changes": [],
                }
            )
            continue
        lines = (
            [*changes(old.identity, new.identity), *_results(old, new)]
            if old is not new
            else []
        )
        rows.append({"cell": cell, "how": "changed" if lines else SAME, "changes": lines})
    return rows


def _results(old: ArtifactRecord, new: ArtifactRecord) -> list[str]:
    lines = []
    if old.code != new.code:
        lines.append(f"code: {old.git_commit} -> {new.git_commit}")
    if old.digest != new.digest:
        mine, other = old.summary, new.summary
        figures = [_change(key, mine.get(key), other.get(key)) for key in sorted({*mine, *other})]
        lines += [line for line in figures if line] or ["content changed"]
    if lines:
        lines += filter(None, [_change("took", span(old.seconds), span(new.seconds))])
    return lines


def _change(name: str, old: Any, new: Any) -> str | None:
    """None where both read alike, and for tables."""
    if isinstance(old, dict | list) or isinstance(new, dict | list) or number(old) == number(new):
        return None
    return f"{name}: {number(old)} -> {number(new)}"


def cells_of(run: str, records: list[ArtifactRecord]) -> dict[str, ArtifactRecord]:
    """What `run` made, and everything that was made from, by cell."""
    by_print: dict[str, list[ArtifactRecord]] = {}
    for record in records:
        by_print.setdefault(record.fingerprint, []).append(record)
    found = {record.cell: record for record in records if record.run == run}
    waiting = list(found.values())
    while waiting:
        record = waiting.pop()
        for cell, print_ in record.inputs.items():
            if cell not in found and print_ in by_print:
                digest = record.input_digests.get(print_)
                same = [one for one in by_print[print_] if one.digest == digest] or by_print[
                    print_
                ]
                found[cell] = same[-1]
                waiting.append(same[-1])
    return found


def _run(wanted: str, names: list[str]) -> str:
    fits = [name for name in names if name.startswith(wanted)]
    if wanted in names or len(fits) == 1:
        return wanted if wanted in names else fits[0]
    raise UserError(
        f"{wanted}: {'matches several runs' if fits else 'no such run'}; expected one of:"
        f" {_known(names)}"
    )


def _with_stages_of(
    cells: Mapping[str, ArtifactRecord], run: str, names: list[str], records: list[ArtifactRecord]
) -> str | None:
    """The newest other run that has all stages of `cells`, those of `run`; None where there is
    none.
    """
    stages = _stages(cells)
    for name in reversed(names):
        if name != run and stages <= _stages(cells_of(name, records)):
            return name
    return None


def _stages(cells: Iterable[str]) -> set[str]:
    return {cell.partition("[")[0] for cell in cells}


def _known(names: list[str]) -> str:
    return ", ".join(names[-8:]) or "none"
