"""What must run, and why: compares the workflow as it is written with what lies in the store."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.format import counted
from pipeline.planning.file_hashes import FileHashes
from pipeline.planning.fingerprint import fingerprint
from pipeline.planning.provenance import code_hash
from pipeline.store.base import FAILURE, LastRecord, Store
from pipeline.store.record import PARTS, ArtifactRecord, record_number
from pipeline.store.snapshot import StoreSnapshot
from pipeline.workflow.expand import Cell, Workflow
from pipeline.workflow.yaml_source import nearest
from stages.contract import Artifact, ExternalFile

PARTS_FILE = "parts.json"
NOT_SET = "(not set)"


class State(StrEnum):
    """How a cell stands in the store."""

    DONE = "done"
    STALE = "stale"
    PARTIAL = "partial"
    STOPPED = "stopped"
    FAILED = "failed"
    NEW = "new"


@dataclass
class Entry:
    """One cell of the plan."""

    cell: Cell
    fingerprint: str
    identity: dict[str, Any]
    external_files: Sequence[ExternalFile]
    state: State
    reasons: list[str]
    last: LastRecord
    """What the store has."""
    run: bool = False
    """Whether this run is to make it."""
    cost: float | None = None
    """Seconds that the last making of this cell, or of one most like it, took."""
    notes: list[str] = field(default_factory=list)
    artifact: Artifact | None = None
    damaged: tuple[str, ...] = ()
    """Its files that are not as its record says, as far as a listing shows."""

    @property
    def job(self) -> str:
        """Its folder in the store, and the name of its lease."""
        return f"{self.cell.uses}/{self.fingerprint}"


@dataclass(frozen=True)
class Selection:
    """Which cells a command is about. With nothing named: all of them."""

    stages: Sequence[str] = ()
    start: str | None = None
    only: bool = False
    force: bool = False
    rerun_changed_code: bool = False


@dataclass(frozen=True)
class Plan:
    """All cells of a workflow, needed ones first, with what is to be done about each."""

    workflow: Workflow
    store: Store
    entries: Mapping[str, Entry]
    snapshot: StoreSnapshot
    """The store as it was when the plan was made."""

    @property
    def to_run(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.run]


def make_plan(workflow: Workflow, store: Store, selection: Selection = Selection()) -> Plan:
    """Look at the store and decide.

    Reads records only, runs nothing. UserError for outside files that cannot be read; a job that
    needs them, and was not asked for, is skipped, with those that need it.
    """
    chosen = _chosen(workflow, selection)
    needed = _chosen(workflow, replace(selection, only=False))
    hashes = FileHashes(store.root)
    snapshot = StoreSnapshot(store)
    entries: dict[str, Entry] = {}
    alike = _Alike(snapshot)
    with _without_collection():
        for cell in workflow.cells.values():
            if not all(need in entries for need in cell.needs):
                continue
            try:
                files = hashes.resolve(cell.stage.external_files(cell.settings))
            except UserError:
                if cell.id in needed:
                    raise
                continue
            entries[cell.id] = _entry(cell, snapshot, alike, entries, files, selection)
        hashes.save()
        for entry in entries.values():
            _decide(entry, entries, chosen, selection)
    return Plan(workflow, store, entries, snapshot)


@contextmanager
def _without_collection() -> Iterator[None]:
    """All that a plan makes stays: to look for garbage in it, again and again as it grows, takes
    a third of the time that a plan of 10,000 jobs takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def identity_of(
    cell: Cell, inputs: Mapping[str, Sequence[str]], files: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides what a cell makes.

    `inputs`: fingerprints by kind; `files`: digests of outside files by name.
    """
    return {
        "stage": cell.uses, "version": cell.stage.version, "with": cell.settings.semantic(),
        "inputs": {kind: sorted(prints) for kind, prints in inputs.items()}, "files": dict(files),
    }  # fmt: skip


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences between two identities, field by field, in words."""
    found: list[str] = []
    if old.get("version") != new["version"]:
        found.append(f"version: {old.get('version')} -> {new['version']}")
    before, after = old.get("with", {}), new["with"]
    for key in sorted({*before, *after}):
        old_value, value = before.get(key, NOT_SET), after.get(key, NOT_SET)
        found += [f"with.{key}: {old_value} -> {value}"] if old_value != value else []
    found += _file_changes(old.get("files", {}), new["files"])
    before, after = old.get("inputs", {}), new["inputs"]
    kinds = [kind for kind in sorted({*before, *after}) if before.get(kind) != after.get(kind)]
    return found + [f"input {kind} changed" for kind in kinds]


def _file_changes(before: Mapping[str, str], after: Mapping[str, str], most: int = 5) -> list[str]:
    changed = {name for name in before.keys() & after.keys() if before[name] != after[name]}
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    every = {"changed": changed, "added": added, "removed": removed}.items()
    words = [f"file {name}: {how}" for how, names in every for name in sorted(names)]
    return words if len(words) <= most else [*words[:most], f"and {len(words) - most} more files"]


def _entry(
    cell: Cell, snapshot: StoreSnapshot, alike: _Alike, entries: Mapping[str, Entry],
    external_files: list[ExternalFile], selection: Selection,
) -> Entry:
    inputs = {kind: [entries[i].fingerprint for i in ids] for kind, ids in cell.inputs.items()}
    identity = identity_of(cell, inputs, {file.name: str(file.digest) for file in external_files})
    print_ = fingerprint(identity)
    last = snapshot.last_record(cell.uses, print_)
    record, like = last.record, None
    damage = snapshot.damage(record) if record else {}
    if record is not None:
        made = {need: entries[need].artifact for need in cell.needs}
        reason = next(iter(damage.values()), None) or other_inputs(record, made)
        state, reasons = (State.STALE, [reason]) if reason else (State.DONE, [])
    elif last.problem:
        state, reasons = State.STALE, [last.problem]
    else:
        like = alike.nearest(cell, identity)
        state, reasons = _unpublished(cell, snapshot, print_, identity, like)
    entry = Entry(cell, print_, identity, external_files, state, reasons, last)
    known = record or like
    entry.cost, entry.damaged = known.seconds if known else None, tuple(damage)
    if record is not None:
        entry.artifact = record.artifact()
        own = (getattr(cell.settings, name, None) for name in ("task", "model"))
        if record.code != code_hash(cell.uses, *own):
            entry.notes.append("the code has changed since it ran (--code rerun reruns it)")
            if selection.rerun_changed_code:
                entry.state, entry.reasons = State.STALE, ["code changed"]
    return entry


def _unpublished(
    cell: Cell, snapshot: StoreSnapshot, print_: str, identity: Mapping[str, Any],
    like: ArtifactRecord | None,
) -> tuple[State, list[str]]:
    """The state of a cell that has no record, and why."""
    attempts = snapshot.attempts(cell.uses, print_)
    if attempts:
        has_failed = snapshot.has(attempts[-1], FAILURE)
        failure = snapshot.store.failure(attempts[-1]) if has_failed else None
        parts = _parts_made(snapshot, cell, attempts)
        if failure is not None:
            reason = (failure.error.splitlines() or ["no reason was recorded"])[0]
            stopped = State.STOPPED, [reason, *parts]
            return stopped if failure.stopped else (State.FAILED, [reason])
        return State.PARTIAL, parts or [counted(len(attempts), "unfinished attempt")]
    if like is None:
        return State.NEW, ["new"]
    return State.STALE, changes(like.identity, identity)


def other_inputs(record: ArtifactRecord, made: Mapping[str, Artifact | None]) -> str | None:
    """Whether an input, of those that are made, has other content than the one that the record's
    artifact was made from.
    """
    for need, now in made.items():
        if now is not None:
            before = record.input_digests.get(now.fingerprint, now.digest)
            if before != now.digest:
                return f"input {need} has new content"
    return None


def _parts_made(snapshot: StoreSnapshot, cell: Cell, attempts: Sequence[Path]) -> list[str]:
    """How far a part-wise stage has come, as a reason; none for another stage."""
    having = [path for path in reversed(attempts) if snapshot.has(path, PARTS_FILE)]
    lists = (snapshot.store.left(path, PARTS_FILE) for path in having)
    listed = next(filter(None, lists), None)
    if not isinstance(listed, list):
        return []
    parts = snapshot.files(f"{cell.uses}{PARTS}")
    made = sum(any(map(record_number, parts.get(str(key), ()))) for key in listed)
    return [f"{made} of {len(listed)} parts are done"]


class _Alike:
    """The records of each cell: what a stale one is compared with."""

    def __init__(self, snapshot: StoreSnapshot) -> None:
        self._snapshot = snapshot
        self._records: dict[str, dict[str, list[ArtifactRecord]]] = {}

    def nearest(self, cell: Cell, identity: Mapping[str, Any]) -> ArtifactRecord | None:
        """The record of this cell that differs least from what is wanted now (the newest of
        those).
        """
        if cell.uses not in self._records:
            found = self._records[cell.uses] = {}
            for record in self._snapshot.records(cell.uses):
                found.setdefault(record.cell, []).append(record)
        return min(
            self._records[cell.uses].get(cell.id, ()),
            key=lambda record: (len(changes(record.identity, identity)), -record.finished),
            default=None,
        )


def _chosen(workflow: Workflow, selection: Selection) -> set[str]:
    """The cells a command is about: those named, what they need (unless `only`), and with
    `start` that stage and all after it.
    """
    named = set(selection.stages) | ({selection.start} if selection.start else set())
    for name in named:
        if name not in workflow.nodes and name not in workflow.cells:
            raise UserError(f"unknown stage {name!r}; {nearest(name, workflow.nodes)}")
    cells = workflow.cells
    if not named:
        return set(cells)
    asked = set(selection.stages)
    picked = {cell.id for cell in cells.values() if asked & {cell.id, cell.node}}
    if selection.start:
        started = {cell.id for cell in cells.values() if selection.start in (cell.id, cell.node)}
        for cell in cells.values():
            if any(need in started for need in cell.needs):
                started.add(cell.id)
        picked |= started
    if selection.only:
        return picked
    for cell in reversed(list(cells.values())):
        if cell.id in picked:
            picked.update(cell.needs)
    return picked


def _decide(
    entry: Entry, entries: Mapping[str, Entry], chosen: set[str], selection: Selection
) -> None:
    """Set `run`: chosen, and either not done or forced.

    UserError when it would be built on what is not there.
    """
    cell = entry.cell
    if cell.id not in chosen:
        return
    named = {*selection.stages, selection.start} - {None}
    is_named = not named or named & {cell.id, cell.node}
    if selection.force and entry.state is State.DONE and is_named:
        entry.state, entry.reasons = State.STALE, ["forced"]
    entry.run = entry.state is not State.DONE
    for need in cell.needs:
        if entry.run and not entries[need].run and entries[need].state is not State.DONE:
            problem = f"{cell.id} needs {need}, which is {entries[need].state} and not selected"
            raise UserError(f"{problem}; drop --only or --from, or run that stage first")
