"""What the last run of a store was asked: commands that only look take it when they get no options.

    STORE/last_run.json   file, profile and --set of the newest `gpt1 run`, a submitted one too

The outbox knows runs as well, but as a queue for MLflow: another host cannot read it before the run
has ended, and a run that finds everything done has no entry in it.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from pipeline.cells import Workflow
from pipeline.store import Store

LAST_RUN = "last_run.json"
SUBMITTED_FILE = "GPT1_SUBMITTED_FILE"
"""Environment of a submitted job: the path of the workflow at the submitter; the job has a copy."""
MAY_BE_SECRET = re.compile(r"://[^/\s]*@|://\S*\?")
"""An address with a password, or with a query, which may be a signature."""


@dataclass(frozen=True)
class LastRun:
    """The options of a run. `assignments`: None where one of them may have held a secret."""

    given: Path
    resolved: Path
    profile: str | None
    assignments: tuple[str, ...] | None

    @property
    def file(self) -> Path | None:
        """The workflow as this process finds it, by the shorter name where it can; None: gone."""
        known = self.resolved.is_file()
        if self.given.is_file() and (not known or self.given.resolve() == self.resolved):
            return self.given
        return self.resolved if known else None

    def __str__(self) -> str:
        profile = f"profile {self.profile} of " if self.profile else ""
        changed = "".join(f" --set {shlex.quote(text)}" for text in self.assignments or ())
        return f"{profile}{self.file}{changed}"


def remember(workflow: Workflow, store: Store) -> None:
    """Record a run, now that it begins."""
    secret = any(MAY_BE_SECRET.search(text) for text in workflow.assignments)
    asked = {
        "file": str(workflow.file),
        "resolved": os.environ.get(SUBMITTED_FILE) or str(workflow.file.resolve()),
        "profile": workflow.profile,
        "assignments": None if secret else list(workflow.assignments),
    }
    store.leave(store.root, LAST_RUN, asked)


def last_run(store: Store) -> LastRun | None:
    """The options of the newest run; None where there was none, or its record cannot be read."""
    found = store.left(store.root, LAST_RUN)
    if not isinstance(found, dict) or not {"file", "resolved", "profile", "assignments"} <= found.keys():
        return None
    assignments = None if found["assignments"] is None else tuple(found["assignments"])
    return LastRun(Path(found["file"]), Path(found["resolved"]), found["profile"], assignments)
