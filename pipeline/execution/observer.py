"""What happens in a run, for those who watch it: the progress display, tracking."""

from __future__ import annotations

from typing import Literal

from pipeline.planning.planner import Entry, Plan
from pipeline.store.record import ArtifactRecord

Status = Literal["FINISHED", "FAILED", "KILLED"]
"""How a run or a job ended, in MLflow's words. KILLED: it was interrupted."""


class Observer:
    """Called by the executor, in its thread. The methods here do nothing; none may raise."""

    def run_started(self, plan: Plan, run: str) -> None:
        """A run begins; its leases are taken."""

    def run_ended(self, status: Status, skipped: list[str]) -> None:
        """It ends; `skipped`: jobs that did not run because one they need failed."""

    def job_started(self, entry: Entry, attempt: str) -> None:
        """A job is handed to the cluster. `attempt`: the name of its folder."""

    def job_running(self, entry: Entry) -> None:
        """Its process has begun."""

    def job_progress(self, entry: Entry, done: float, total: float, unit: str, note: str) -> None:
        """How far it is."""

    def job_info(self, cell: str, text: str) -> None:
        """A line of a job, or of the workflow, for the person watching."""

    def job_cached(self, entry: Entry) -> None:
        """A job is up to date."""

    def job_done(self, entry: Entry, record: ArtifactRecord) -> None:
        """A job has run."""

    def job_failed(self, entry: Entry, error: str, status: Status) -> None:
        """A job has failed, or was interrupted; the error in one line."""

    def job_skipped(self, entry: Entry, why: str) -> None:
        """A job does not run."""
