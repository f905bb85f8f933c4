"""What a run makes again, when somebody found files of the store damaged."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gpt1.errors import UserError
from gpt1.format import span
from pipeline.planning.planner import Entry, Plan
from pipeline.store.base import LastRecord
from pipeline.store.record import PARTS, DamagedArtifact
from stages.contract import Artifact, StoredFile

LIMIT = 3600.0  # seconds, where --repair-limit says nothing


@dataclass(frozen=True)
class Repair:
    """The records to withdraw (STAGE/FINGERPRINT: which one of them), the jobs to make again, about
    how many seconds that takes, and what others have made again since it was read.
    """

    records: dict[str, int]
    entries: list[Entry]
    seconds: float
    newer: list[tuple[Entry, LastRecord]]


class Repairs:
    """The repairs of one run. `limit`: the longest it may do without being asked, in seconds."""

    def __init__(self, plan: Plan, limit: float) -> None:
        self._plan, self._limit = plan, limit
        self._repaired: set[str] = set()
        self._restarted: set[str] = set()

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
        keys, what = self._all_damage(damage, artifacts), str(damage).partition(";")[0]
        records, entries, newer = dict[str, int](), list[Entry](), list[tuple[Entry, LastRecord]]()
        for entry in self._plan.entries.values():
            files = _files(artifacts.get(entry.cell.id, entry.artifact))
            if f"{entry.job}/" in keys or any(file.key in keys for file in files):
                last = self._plan.store.last_record(entry.cell.uses, entry.fingerprint)
                if last.record and not any(f.key in keys for f in last.record.files.values()):
                    newer.append((entry, last))
                else:
                    entries.append(entry)
                    records |= {entry.job: last.number} if last.counts else {}
        for part in {_owner(key) for key in keys}:
            stage, _, fingerprint = part.partition("/")
            last = self._plan.store.last_record(stage, fingerprint)
            files = last.record.files.values() if last.record else ()
            if stage.endswith(PARTS) and (last.problem or any(f.key in keys for f in files)):
                records[part] = last.number
        if self._repaired & records.keys() & {_owner(key) for key in keys}:
            raise UserError(f"{what}; it was made again, and is damaged again: check the disk")
        if not (records or entries or newer):
            if reader.cell.id in self._restarted:
                raise UserError(f"{what}; no job of this workflow makes it again")
            self._restarted.add(reader.cell.id)
        costly = [entry for entry in entries if entry.job in records and entry is not reader]
        seconds = self._check(what, keys, costly)
        self._repaired |= records.keys()
        return Repair(records, entries, seconds, newer)

    def _check(self, what: str, keys: set[str], entries: list[Entry]) -> float:
        """How long making these again takes; UserError when that is above the limit."""
        seconds = sum(self._seconds(entry, keys) for entry in entries)
        if seconds > self._limit:
            names = ", ".join(entry.cell.id for entry in entries)
            time = f"takes about {span(seconds)}, more than the limit of {span(self._limit)}"
            advice = f"allow it with --repair-limit {math.ceil(2 * seconds)}s"
            raise UserError(f"{what}; making {names} again {time}; {advice}")
        return seconds

    def _all_damage(self, damage: DamagedArtifact, artifacts: Mapping[str, Artifact]) -> set[str]:
        """All that is damaged in the artifacts that have one of these files: each that is found
        later costs another try of the job that reads it.
        """
        store, keys = self._plan.store, set(damage.keys)
        if not store.shared:  # all would be downloaded
            return keys
        entries = self._plan.entries.values()
        every = [_files(artifacts.get(entry.cell.id, entry.artifact)) for entry in entries]
        having = [listed for listed in every if any(file.key in keys for file in listed)]
        files = {file.key: file for listed in having for file in listed}
        problems = store.all(store.problem_of, files.values())
        return keys | {key for key, what in zip(files, problems, strict=True) if what}

    def _seconds(self, entry: Entry, keys: set[str]) -> float:
        """About how long making a job again takes, with the parts and checkpoints that are left."""
        store, record = self._plan.store, entry.last.record
        last = record.seconds if record else entry.cost or 0.0
        parts = {_owner(key) for key in keys if key.startswith(f"{entry.cell.uses}{PARTS}/")}
        total = sum(record.parts.values()) if record else 0
        if total:
            made = [found for part in parts if (found := store.record(*part.split("/")))]
            return last / total + sum(part.seconds for part in made)
        if record is None:
            return last
        prefix = f"{entry.job}/"
        names = [e.key.removeprefix(prefix) for e in store.objects.entries(prefix)]
        return last * entry.cell.stage.share_left(entry.cell.settings, names)


def _files(artifact: Artifact | None) -> Collection[StoredFile]:
    return artifact.files.values() if artifact else ()


def _owner(key: str) -> str:
    """STAGE/FINGERPRINT of a file."""
    return "/".join(key.split("/")[:2])


def missing_needs(entry: Entry, plan: Plan, have: set[str]) -> list[Entry]:
    """The jobs that one needs to be made again, and that are not among those this run has."""
    found = []
    for need in entry.cell.needs:
        if need not in have:
            found += [*missing_needs(plan.entries[need], plan, have), plan.entries[need]]
    return found
