"""What a run of the workflow writes for MLflow: a parent run, a child for each stage, a grandchild
for each job of a matrix.

It writes events to the store, and never waits for a server: exporter.py sends them.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

from pipeline.execution.observer import Observer, Status
from pipeline.planning.last_run import hide_secret
from pipeline.planning.planner import Entry, Plan
from pipeline.planning.provenance import git_commit, package_versions, user_name
from pipeline.store.lease import RUNS
from pipeline.store.record import ArtifactRecord
from pipeline.tracking.events import EventLog, JobCached, JobEnded, JobStarted, RunEnded, RunStarted
from pipeline.tracking.live_export import CLOSING, LiveExport
from pipeline.workflow.expand import Workflow

LONGEST_NAME = 100  # characters of a run's name


class RunLog(Observer):
    """Records one run of the workflow. `info` gets what went wrong, a line each; `is_forced` says
    that the run is to end at once.
    """

    def __init__(self, info: Callable[[str], None], is_forced: Callable[[], bool]) -> None:
        self._info, self._is_forced = info, is_forced

    def run_started(self, plan: Plan, run: str) -> None:
        workflow = plan.workflow
        needed = {need for entry in plan.entries.values() for need in entry.cell.needs}
        self._last = plan.entries.keys() - needed
        self._log = EventLog(plan.store, f"{RUNS}/{run}", self._info)
        profile = workflow.profile or workflow.name
        tags = {
            "gpt1.kind": "workflow", "gpt1.run": run, "gpt1.profile": workflow.profile or "",
            "gpt1.workflow": workflow.name, "gpt1.store": plan.store.where,
            "gpt1.command": shlex.join(["gpt1", *map(hide_secret, sys.argv[1:])]),
            "gpt1.packages": ", ".join(f"{k} {v}" for k, v in package_versions().items()),
            **_origin(str(workflow.file)),
        }  # fmt: skip
        self._log.write(RunStarted(
            name=run_name(workflow), profile=profile, tags=tags, params=changed(plan),
            assignments=tuple(map(hide_secret, workflow.assignments)),
        ))  # fmt: skip
        self._log.flush()
        self._export = LiveExport(plan.store, run, self._info)
        self._export.start()

    def job_started(self, entry: Entry, attempt: str) -> None:
        settings = entry.cell.settings.model_dump(mode="json")
        why = hide_secret("; ".join(entry.reasons))[:500]
        self._log.write(JobStarted(
            attempt=attempt, params={name: _hide(value) for name, value in settings.items()},
            tags={"gpt1.why": why, **_origin(f"stages/{entry.cell.uses}")},
            withdrawn=entry.last.number, **self._facts(entry),
        ))  # fmt: skip
        self._log.flush()  # before there is anything in the attempt

    def job_cached(self, entry: Entry) -> None:
        run = entry.last.record.run if entry.last.record else ""
        self._log.write(JobCached(run=run, withdrawn=entry.last.withdrawn, **self._facts(entry)))

    def job_done(self, entry: Entry, record: ArtifactRecord) -> None:  # noqa: ARG002
        self._log.write(JobEnded(cell=entry.cell.id, status="FINISHED"))

    def job_failed(self, entry: Entry, error: str, status: Status) -> None:
        self._log.write(JobEnded(cell=entry.cell.id, status=status, error=hide_secret(error)))

    def run_ended(self, status: Status, skipped: list[str]) -> None:
        self._log.write(RunEnded(status=status, skipped=skipped))
        self._log.close()
        deadline = time.monotonic() + CLOSING
        missing = self._export.close(lambda: time.monotonic() < deadline and not self._is_forced())
        if missing:
            what = f"MLflow does not have all of this run ({missing})"
            self._info(f"{what}; `gpt1 track sync` sends it")

    def _facts(self, entry: Entry) -> dict[str, Any]:
        cell, settings = entry.cell, entry.cell.settings.model_dump()
        tokens = settings["batch_size"] * settings["context"] if cell.uses == "pretrain" else 0
        return {
            "cell": cell.id, "stage": cell.uses, "fingerprint": entry.fingerprint,
            "group": cell.node if cell.axes else None, "axes": dict(cell.axes),
            "is_last": cell.id in self._last and not cell.axes, "tokens_per_step": tokens,
        }  # fmt: skip


def _hide(value: Any) -> Any:
    return hide_secret(value) if isinstance(value, str) else value


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
