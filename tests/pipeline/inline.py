"""Runs a workflow cell by cell in this process: the real stages, contexts and store, without a cluster."""

from __future__ import annotations

from pathlib import Path

from pipeline.context import Job, run_cell
from pipeline.events import PrintReporter
from pipeline.last_run import remember
from pipeline.plan import Entry, Plan, Selection, make_plan
from pipeline.store import Store
from pipeline.workflow import read


def plan_of(
    file: Path, store: Path | str, *assignments: str, profile: str | None = None, selection: Selection | None = None
) -> Plan:
    return make_plan(read(file, profile, assignments), Store.at(store), selection or Selection())


def run_inline(plan: Plan, run: str = "") -> list[str]:
    """Make what the plan says; the cells that were made, in order."""
    remember(plan)
    for entry in plan.to_run:
        if entry.artifact is not None:
            plan.store.withdraw(entry.cell.uses, entry.fingerprint)
        make(plan, entry, run)
    return [entry.cell.id for entry in plan.to_run]


def make(plan: Plan, entry: Entry, run: str = "", mlflow_run_id: str | None = None) -> None:
    """Make one cell, whose inputs are made."""
    store, cell = plan.store, entry.cell
    needs = [plan.entries[need] for need in cell.needs]
    inputs = [store.artifact(need.cell.uses, need.fingerprint) for need in needs]
    assert all(inputs)
    job = Job(
        store, cell.uses, cell.id, entry.fingerprint, entry.identity, cell.settings.model_dump(mode="json"),
        tuple(item for item in inputs if item), tuple(entry.outside), cell.resources, run, mlflow_run_id, cluster=False,
    )  # fmt: skip
    run_cell(job, PrintReporter(cell.id))
