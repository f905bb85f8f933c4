"""Runs a workflow cell by cell in this process: the real stages, contexts and store, without a cluster."""

from __future__ import annotations

from pathlib import Path

from pipeline.context import Job, run_cell
from pipeline.events import PrintReporter
from pipeline.plan import Plan, Selection, make_plan
from pipeline.store import Store
from pipeline.workflow import read


def plan_of(
    file: Path, store: Path | str, *assignments: str, profile: str | None = None, selection: Selection | None = None
) -> Plan:
    return make_plan(read(file, profile, assignments), Store.at(store), selection or Selection())


def run_inline(plan: Plan, run: str = "") -> list[str]:
    """Make what the plan says; the cells that were made, in order."""
    store = plan.store
    for entry in plan.to_run:
        cell = entry.cell
        if entry.artifact is not None:
            store.withdraw(cell.uses, entry.fingerprint)
        prints = {need: plan.entries[need] for need in cell.needs}
        inputs = [store.artifact(need.cell.uses, need.fingerprint) for need in prints.values()]
        assert all(inputs)
        job = Job(
            store, cell.uses, cell.id, entry.fingerprint, entry.identity, cell.settings.model_dump(mode="json"),
            tuple(item for item in inputs if item), tuple(entry.outside), cell.resources, run, cluster=False,
        )  # fmt: skip
        run_cell(job, PrintReporter(cell.id))
    return [entry.cell.id for entry in plan.to_run]
