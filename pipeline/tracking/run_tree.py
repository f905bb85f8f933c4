"""What a run of the workflow writes for MLflow: a parent run, a child for each stage, a grandchild
for each job of a matrix.

It writes events to the store, and never waits for a server: exporter.py sends them.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import Any

from pipeline.execution.observer import Observer, Status
from pipeline.execution.shutdown import GracefulShutdown
from pipeline.planning.last_run import hide_secret
from pipeline.planning.planner import Entry, Plan
from pipeline.planning.provenance import git_commit, package_versions, user_name
from pipeline.store.lease import Leases
from pipeline.store.record import ArtifactRecord
from pipeline.tracking.events import RUNS, EventLog
from pipeline.tracking.exporter import LiveExport
from pipeline.workflow.expand import Workflow

LONGEST_NAME = 100  # characters of a run's name


class RunLog(Observer):
    """Records one run of the workflow. `info` gets what went wrong, a line each. In the end it
    waits for the server until `shutdown` is asked to end, or a run that was is asked again.
    """

    def __init__(self, info: Callable[[str], None], shutdown: GracefulShutdown) -> None:
        self._info, self._shutdown = info, shutdown

    def run_started(self, plan: Plan, run: str, leases: Leases) -> None:
        workflow = plan.workflow
        needed = {need for entry in plan.entries.values() for need in entry.cell.needs}
        self._plan, self._last = plan, plan.entries.keys() - needed
        self._log = EventLog(plan.store, f"{RUNS}/{run}", self._info)
        tags = {
            "gpt1.kind": "workflow", "gpt1.run": run, "gpt1.profile": workflow.profile or "",
            "gpt1.workflow": workflow.name, "gpt1.store": plan.store.where,
            "gpt1.command": shlex.join(["gpt1", *map(hide_secret, sys.argv[1:])]),
            "gpt1.packages": ", ".join(f"{k} {v}" for k, v in package_versions().items()),
            **_origin(str(workflow.file)),
        }  # fmt: skip
        self._log.write(event="start", name=run_name(workflow), tags=tags, params=changed(plan))
        self._log.flush()
        self._export = LiveExport(plan.store, run, leases, self._info)
        self._export.start()

    def job_started(self, entry: Entry, attempt: str) -> None:
        cell = entry.cell
        self._log.write(
            event="job", attempt=attempt, params=cell.settings.model_dump(mode="json"),
            tags={"gpt1.why": "; ".join(entry.reasons)[:500], **_origin(f"stages/{cell.uses}")},
            **self._facts(entry),
        )  # fmt: skip
        self._log.flush()  # before there is anything in the attempt

    def job_cached(self, entry: Entry) -> None:
        record = entry.last.record
        self._log.write(event="cached", run=record.run if record else "", **self._facts(entry))

    def job_done(self, entry: Entry, record: ArtifactRecord) -> None:  # noqa: ARG002
        self._log.write(event="job_end", cell=entry.cell.id, status="FINISHED", error="")

    def job_failed(self, entry: Entry, error: str, status: Status) -> None:
        self._log.write(event="job_end", cell=entry.cell.id, status=status, error=error)

    def run_ended(self, status: Status, skipped: list[str]) -> None:
        self._log.write(event="end", status=status, skipped=skipped)
        self._log.close()

        def is_asked() -> bool:
            return self._shutdown.forced if status == "KILLED" else self._shutdown.asked

        if missing := self._export.close(is_asked=is_asked):
            what = f"MLflow does not have all of this run ({missing})"
            self._info(f"{what}; `gpt1 track sync` sends it")

    def _facts(self, entry: Entry) -> dict[str, Any]:
        """What the exporter needs to know of a job beside its record."""
        cell, settings = entry.cell, entry.cell.settings.model_dump()
        return {
            "cell": cell.id, "stage": cell.uses, "fingerprint": entry.fingerprint,
            "withdrawn": self._plan.store.last_record(cell.uses, entry.fingerprint).withdrawn,
            "group": cell.node if cell.axes else None, "axes": cell.axes,
            "is_last": cell.id in self._last and not cell.axes,
            "tokens_per_step": (
                settings["batch_size"] * settings["context"] if cell.uses == "pretrain" else 0
            ),
        }  # fmt: skip


def run_name(workflow: Workflow) -> str:
    """The profile (else the workflow), and what the command changed."""
    changes = ", ".join(map(hide_secret, workflow.assignments))
    name = workflow.profile or workflow.name
    name += f": {changes}" if changes else ""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def changed(plan: Plan) -> dict[str, Any]:
    """The settings of the stages, by `stage.setting`, that are not those of the code: what the
    workflow, the profile or the command chose.
    """
    found: dict[str, Any] = {}
    for entry in plan.entries.values():
        settings = entry.cell.settings
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            default = field.get_default(call_default_factory=True)
            if name not in entry.cell.axes and value != default:
                found[f"{entry.cell.node}.{name}"] = hide_secret(str(value))
    return found


def _origin(source: str) -> dict[str, str]:
    """The tags behind MLflow's columns User and Source."""
    commit = git_commit()
    return {
        "mlflow.user": user_name(), "mlflow.source.name": source, "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }  # fmt: skip
