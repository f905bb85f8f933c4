"""`gpt1 path STAGE`: where what a stage has made is kept."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt1.errors import UserError
from pipeline.commands.options import (
    Assignments,
    FileToRead,
    Profile,
    StoreOption,
    read_workflow,
    run_command,
    stages,
)
from pipeline.plan import Entry, Selection, State, make_plan
from pipeline.store import Store


def path(
    stage: Annotated[
        str,
        typer.Argument(help="A stage, or a job.", metavar="STAGE-OR-JOB", autocompletion=stages),
    ],
    file: FileToRead = None,
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
) -> None:
    """Print the folder (on S3: the address) of what a stage made; a line for each of several jobs.

    The parts of a stage that works in parts are elsewhere: its record.json names each file's place.
    """
    workflow = read_workflow(file, profile, assignments, store)
    plan = make_plan(workflow, Store.existing(store), Selection((stage,)))
    chosen = [entry for entry in plan.entries.values() if stage in (entry.cell.id, entry.cell.node)]
    for entry in chosen:
        if entry.state is not State.DONE:
            command = run_command(workflow, plan.store, entry.cell.id)
            found = ", ".join(dict.fromkeys([entry.state, *entry.reasons]))
            what = f"{entry.cell.id}: expected done, found {found}"
            raise UserError(f"{plan.store.where}: {what}; make it: {command}")
    folders = {entry.cell.id: _folder(entry, plan.seen) for entry in chosen}
    print("\n".join(folders.values() if len(folders) == 1 else map("\t".join, folders.items())))


def _folder(entry: Entry, store: Store) -> str:
    record = store.record(entry.cell.uses, entry.fingerprint) or {}
    return f"{store.where}/{entry.cell.uses}/{entry.fingerprint}/{record['attempt']}"
