"""What a run makes again, when somebody found files of the store damaged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gpt1.errors import UserError
from gpt1.wording import span
from pipeline.planning.planner import Entry, Plan
from pipeline.store.record import PARTS, DamagedArtifact
from stages.contract import Artifact

LIMIT = 3600.0  # seconds, where --repair-limit says nothing


@dataclass(frozen=True)
class Repair:
    """The records to withdraw (STAGE/FINGERPRINT), the jobs to make again, and about how many
    seconds that takes.
    """

    records: list[str]
    entries: list[Entry]
    seconds: float


class Repairs:
    """The repairs of one run. `limit`: the longest it may do without being asked, in seconds."""

    def __init__(self, plan: Plan, limit: float) -> None:
        self._plan, self._limit = plan, limit
        self._repaired: set[str] = set()

    def check_plan(self) -> None:
        """UserError when making again what the plan has found damaged would take too long."""
        entries = [entry for entry in self._plan.to_run if entry.damaged]
        if entries:
            what = f"{entries[0].cell.id}: {entries[0].reasons[0]}"
            self._check(what, {key for entry in entries for key in entry.damaged}, entries)

    def decide(
        self, reader: Entry, damage: DamagedArtifact, artifacts: Mapping[str, Artifact]
    ) -> Repair:
        """What is to be done before `reader` can run again; `artifacts`: those made, by cell.

        UserError when it would take too long, was done in vain, or is not in this plan.
        """
        keys = self._whole({key for key in damage.keys if self._counts_now(key)}, artifacts)
        records = {_owner(key) for key in keys}
        what = str(damage).partition(";")[0]
        if records & self._repaired:
            raise UserError(f"{what}; it was made again, and is damaged again: check the disk")
        entries = []
        for entry in self._plan.entries.values():
            artifact = artifacts.get(entry.cell.id, entry.artifact)
            files = artifact.files.values() if artifact else ()
            if entry.job in records or any(file.key in keys for file in files):
                entries.append(entry)
                records.add(entry.job)
        known = {entry.job for entry in entries}
        unknown = [r for r in records - known if not r.partition("/")[0].endswith(PARTS)]
        if unknown:
            raise UserError(f"{what}; {unknown[0]} is no job of this workflow")
        seconds = self._check(what, keys, [entry for entry in entries if entry is not reader])
        self._repaired |= records
        return Repair(sorted(records), entries, seconds)

    def _check(self, what: str, keys: set[str], entries: list[Entry]) -> float:
        """How long making these again takes; UserError when that is above the limit."""
        seconds = sum(self._seconds(entry, keys) for entry in entries)
        if seconds > self._limit:
            names = ", ".join(entry.cell.id for entry in entries)
            raise UserError(
                f"{what}; making {names} again takes about {span(seconds)}, more than the limit"
                f" of {span(self._limit)}; allow it with --repair-limit {math.ceil(2 * seconds)}s"
            )
        return seconds

    def _counts_now(self, key: str) -> bool:
        """Whether the record that has a damaged file still counts: it may have been made again
        since the file was read.
        """
        last = self._plan.store.last_record(*_owner(key).split("/"))
        files = last.record.files.values() if last.record else ()
        return bool(last.problem) or any(file.key == key for file in files)

    def _whole(self, keys: set[str], artifacts: Mapping[str, Artifact]) -> set[str]:
        """All that is damaged in the artifacts that have one of these files: each that is found
        later costs another try of the job that reads it.
        """
        store = self._plan.store
        if not store.shared:  # all would be downloaded
            return keys
        found = set(keys)
        for entry in self._plan.entries.values():
            artifact = artifacts.get(entry.cell.id, entry.artifact)
            files = list(artifact.files.values()) if artifact else []
            if any(file.key in keys for file in files):
                found.update(
                    file.key for file in files if store.objects.sha256(file.key) != file.sha256
                )
        return found

    def _seconds(self, entry: Entry, keys: set[str]) -> float:
        """About how long making a job again takes, with the parts and checkpoints that are left."""
        store, last, record = self._plan.store, entry.cost or 0.0, entry.last.record
        parts = {
            _owner(key) for key in keys if key.partition("/")[0] == entry.cell.uses + PARTS
        }
        total = sum(record.parts.values()) if record else 0
        if total:
            made = [found for part in parts if (found := store.record(*part.split("/")))]
            return last / total + sum(part.seconds for part in made)
        if record is None:
            return last
        prefix = f"{entry.job}/"
        names = [e.key.removeprefix(prefix) for e in store.objects.entries(prefix)]
        return last * entry.cell.stage.share_left(entry.cell.settings, names)


def _owner(key: str) -> str:
    """STAGE/FINGERPRINT of a file."""
    return "/".join(key.split("/")[:2])


def needed(entry: Entry, plan: Plan, have: set[str]) -> list[Entry]:
    """The jobs that one needs to be made again, and that are not among those this run has."""
    found = []
    for need in entry.cell.needs:
        if need not in have:
            found += [*needed(plan.entries[need], plan, have), plan.entries[need]]
    return found
