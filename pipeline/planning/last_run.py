"""What the last run of a store was asked: commands that only look take it when they get no options.

    STORE/last_run.json   file, profile, --set and cells of the newest `gpt1 run`, submitted or not

Events know runs as well, but not one that finds everything done.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt1.errors import UserError
from pipeline.planning.planner import Plan
from pipeline.store.atomic import read_signed, sign, to_json
from pipeline.store.base import Store
from pipeline.store.record import ArtifactRecord
from pipeline.workflow.stages import kinds_of

LAST_RUN = "last_run.json"
SUBMITTED_FILE = "GPT1_SUBMITTED_FILE"
"""Environment of a submitted job: the path of the workflow at the submitter; the job has a copy."""
MAY_BE_SECRET = re.compile(r"://[^/\s]*@|://\S*\?")
"""An address with a password, or with a query, which may be a signature."""


@dataclass(frozen=True)
class LastRun:
    """The options of a run.

    `assignments`: None where one of them may have held a secret. `cells`: see `places`.
    """

    given: Path
    resolved: Path
    profile: str | None
    assignments: tuple[str, ...] | None
    cells: Mapping[str, str]

    @property
    def file(self) -> Path | None:
        """The workflow as this process finds it, by the shorter name where it can; None: gone."""
        known = self.resolved.is_file()
        if self.given.is_file() and (not known or self.given.resolve() == self.resolved):
            return self.given
        return self.resolved if known else None

    @property
    def problem(self) -> str:
        """Why its workflow cannot be read again; empty where it can."""
        if self.file is None:
            return f"used {self.resolved}, which is gone"
        secret = self.assignments is None
        return "had a secret in --set, which is not recorded" if secret else ""

    def __str__(self) -> str:
        return describe_options(self.file or self.resolved, self.profile, self.assignments or ())


@dataclass(frozen=True)
class RunArtifacts:
    """What a run or a plan makes: its cells, of which the store has those that are made.

    `name`: what messages call it. `workflow`: its file; None: gone.
    """

    store: Store
    cells: Mapping[str, str]
    name: str
    workflow: Path | None = None

    def record(self, cell: str) -> ArtifactRecord | None:
        """The record of a cell; None while it is not made."""
        kind, _, fingerprint = self.cells[cell].rpartition("/")
        return self.store.record(kind, fingerprint)

    def of_kind(self, kinds: Collection[str]) -> list[str]:
        """The cells of these kinds of stage."""
        return [cell for cell, place in self.cells.items() if place.rpartition("/")[0] in kinds]

    def choose(self, wanted: str, kinds: Collection[str], how: str = "") -> ArtifactRecord:
        """The record of the cell of `kinds` that `wanted` names: by its id, its stage, or the kind
        whose place it takes.

        A name of several kinds of pre-training means the Transformer. UserError for a name of no
        cell, of several (`how` to choose one), of one not made.
        """
        among = self.of_kind(kinds)
        fits = (
            [cell for cell in among if cell == wanted]
            or [cell for cell in among if cell.startswith(f"{wanted}[")]
            or [cell for cell in among if wanted in kinds_of(self.cells[cell].rpartition("/")[0])]
        )
        advice = "for another run's jobs, give its workflow, --profile, and --set"
        if not fits:
            known = ", ".join(among[:8]) or "none"
            more = f" and {len(among) - 8} more" if len(among) > 8 else ""
            expected = f"expected one of {known}{more}; {advice}"
            raise UserError(f"no job {wanted!r} in {self.name}; {expected}")
        records = [record for cell in fits if (record := self.record(cell))]
        if len(fits) > 1:
            usual = [one for one in records if one.settings.get("model", "gpt") == "gpt"]
            records = usual or records
        if len(records) > 1:
            names = ", ".join(record.cell for record in records)
            raise UserError(f"{wanted!r} matches {len(records)} jobs; choose one of {names}{how}")
        if not records:
            problem = f"{', '.join(fits)} has not run in {self.name}"
            raise UserError(f"{problem}; start it with `gpt1 run`; {advice}")
        return records[0]


def hide_secret(text: str) -> str:
    """The text; another one where it may hold a secret."""
    return "(hidden: it may hold a secret)" if MAY_BE_SECRET.search(text) else text


def describe_options(file: Path, profile: str | None, assignments: Sequence[str]) -> str:
    """The options of a command, in words."""
    changed = "".join(f" --set {shlex.quote(text)}" for text in assignments)
    return f"{f'profile {profile} of ' if profile else ''}{file}{changed}"


def places(plan: Plan) -> dict[str, str]:
    """KIND/FINGERPRINT, the folder in the store, of each cell."""
    return {cell: entry.job for cell, entry in plan.entries.items()}


def remember(plan: Plan) -> None:
    """Record a run, now that it begins."""
    workflow, store = plan.workflow, plan.store
    secret = any(MAY_BE_SECRET.search(text) for text in workflow.assignments)
    asked = {
        "file": str(workflow.file),
        "resolved": os.environ.get(SUBMITTED_FILE) or str(workflow.file.resolve()),
        "profile": workflow.profile,
        "assignments": None if secret else list(workflow.assignments),
        "cells": list(places(plan).items()),  # in the plan's order
    }
    store.objects.write(LAST_RUN, sign(to_json(asked)))


def last_run(store: Store) -> LastRun | None:
    """The options of the newest run; None where there was none, or its record cannot be read."""
    data = store.objects.read(LAST_RUN)
    found = read_signed(data) if data else None
    if found is None or found.keys() != {"file", "resolved", "profile", "assignments", "cells"}:
        return None
    assignments = None if found["assignments"] is None else tuple(found["assignments"])
    file, resolved = Path(found["file"]), Path(found["resolved"])
    return LastRun(file, resolved, found["profile"], assignments, dict(found["cells"]))


def last_artifacts(store: Store) -> RunArtifacts:
    """The artifacts of the newest run. UserError where none is recorded."""
    last = last_run(store)
    if last is None:
        advice = "start one with `gpt1 run`, or give --profile or --set"
        raise UserError(f"{store.where}: no run is recorded in this store; {advice}")
    return RunArtifacts(store, last.cells, f"{last} (the store's last run)", last.file)
