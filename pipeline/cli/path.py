"""`gpt1 path STAGE`: where what a stage has made is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from gpt1.errors import UserError
from pipeline.cli.options import (
    Assignments,
    FileToRead,
    Profile,
    StoreOption,
    read_artifacts,
    read_workflow,
    run_command,
    stages,
)
from pipeline.planning.last_run import RunArtifacts, last_run
from pipeline.planning.planner import Selection, State, make_plan
from pipeline.store.base import Store
from pipeline.store.record import ArtifactRecord
from pipeline.workflow.yaml_source import nearest


def path(
    stage: Annotated[
        str,
        typer.Argument(help="Stage or job.", metavar="STAGE-OR-JOB", autocompletion=stages),
    ],
    file: FileToRead = None,
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
) -> None:
    """Print the folder (on S3: the address) of a stage's output, one line per job.

    Parts are stored elsewhere: record.json has the path of every file.
    """
    if file is None and profile is None and not assignments and _workflow_is_lost(store):
        _say(_made(read_artifacts(file, profile, assignments, store), stage))
        return
    workflow = read_workflow(file, profile, assignments, store)
    plan = make_plan(workflow, Store.existing(store), Selection((stage,)))
    chosen = [entry for entry in plan.entries.values() if stage in (entry.cell.id, entry.cell.node)]
    for entry in chosen:
        if entry.state is not State.DONE:
            command = run_command(workflow, plan.store, entry.cell.id)
            found = ", ".join(dict.fromkeys([entry.state, *entry.reasons]))
            what = f"{entry.cell.id}: expected done, found {found}"
            raise UserError(f"{plan.store.where}: {what}; run it: {command}")
    _say({e.cell.id: _folder(e.last.record, plan.store) for e in chosen if e.last.record})


def _workflow_is_lost(store: str) -> bool:
    """Whether the last run's options cannot be read again; what it made is known all the same."""
    last = last_run(Store.existing(store))
    return last is not None and (last.file is None or last.assignments is None)


def _made(found: RunArtifacts, stage: str) -> dict[str, str]:
    cells = [cell for cell in found.cells if stage in (cell, cell.partition("[")[0])]
    records = {cell: found.record(cell) for cell in cells}
    if not cells or None in records.values():
        what = (
            f"{stage} has not run"
            if cells
            else nearest(stage, sorted({cell.partition("[")[0] for cell in found.cells}))
        )
        raise UserError(f"no {stage!r} in {found.name}: {what}")
    return {cell: _folder(record, found.store) for cell, record in records.items() if record}


def _folder(record: ArtifactRecord, store: Store) -> str:
    return f"{store.where}/{record.stage}/{record.fingerprint}/{record.attempt}"


def _say(folders: Mapping[str, str]) -> None:
    print("\n".join(folders.values() if len(folders) == 1 else map("\t".join, folders.items())))
