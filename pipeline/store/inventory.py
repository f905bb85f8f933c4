"""All that is in a store: what is damaged, and what no one needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

from gpt1.train.checkpoint import newest_step
from pipeline.store.atomic import sign, to_json
from pipeline.store.base import ATTEMPT, DAMAGED, EVENTS, UNREADABLE, Store
from pipeline.store.lease import Leases
from pipeline.store.record import PARTS, ArtifactRecord, record_number
from pipeline.store.snapshot import StoreSnapshot

ABANDONED = 3600.0  # seconds after which a file that a process has not finished is a leftover


@dataclass(frozen=True)
class InventoryItem:
    """Something in a store. `key`: its place; one of an attempt ends with a slash."""

    kind: str
    key: str
    what: str
    size: int = 0


def inspect(
    store: Store, progress: Callable[[int, int], None] = lambda *_: None
) -> Iterator[InventoryItem]:
    """Records that cannot be read, files that are not as their records say, attempts that belong to
    no record; `progress` gets bytes done and in all.

    In the end, plans know which files were found damaged.
    """
    snapshot = StoreSnapshot(store)
    records = list(_records(snapshot))
    files = {file.key: file for record in records for file in record.files.values()}
    for stage in snapshot.stages():
        for fingerprint in snapshot.files(stage):
            if problem := snapshot.last_record(stage, fingerprint).problem:
                yield InventoryItem("unreadable", f"{stage}/{fingerprint}", problem)
    found: dict[str, str] = {}
    done, total = 0, sum(file.size for file in files.values())
    for key, file in files.items():
        if what := store.problem_of(file):
            found[key] = file.sha256
            yield InventoryItem("damaged", key, what)
        done += file.size
        progress(done, total)
    yield from _unused(snapshot, records)
    with suppress(OSError):  # a store that is read only
        store.objects.write(DAMAGED, sign(to_json({"files": found})))


def garbage(
    store: Store, leases: Leases, unfinished: bool, needed: Collection[str]
) -> Iterator[InventoryItem]:
    """What no record lists and no run may be reading, writing or continue from: attempts, what was
    set aside, and leftovers.

    Kept are attempts of a job that somebody holds, and at parts of its stage; what was withdrawn
    while anybody is at work; checkpoints that are newer than those of the attempt that was
    published; the events of all attempts, because MLflow may be filled from them again; attempts
    at jobs without a readable record, unless `unfinished` says otherwise, and always those of the
    jobs that are `needed` (STAGE/FINGERPRINT).
    `leases`: the caller's.
    """
    snapshot, held = StoreSnapshot(store), leases.held()
    for found in _unused(snapshot, list(_records(snapshot))):
        stage, fingerprint, attempt, _ = found.key.split("/")
        own = stage.removesuffix(PARTS)
        job, listed = f"{stage}/{fingerprint}", snapshot.files(stage)[fingerprint]
        last = snapshot.last_record(stage, fingerprint)
        if last.record:
            steps = [
                newest_step(name for name in listed if name.startswith(f"{one}/"))
                for one in (attempt, last.record.attempt)
            ]
            was_withdrawn = last.number > 1 and bool(held)
            is_free = not was_withdrawn and steps[0] <= steps[1]
        else:
            is_free = stage != own or (unfinished and job not in needed and not last.problem)
        in_work = any(one.startswith(f"{own}/") for one in held) if stage != own else job in held
        if is_free and not in_work:
            yield found
    for stage in snapshot.stages():
        for listed in snapshot.files(stage).values():
            for name, entry in listed.items():
                if name.startswith(f"{UNREADABLE}-"):
                    what = "a record that could not be read"
                    yield InventoryItem("set aside", entry.key, what, entry.size)
    for entry in store.objects.unfinished(ABANDONED):
        yield InventoryItem("leftover", entry.key, "a process has not finished it", entry.size)
    for entry in leases.leftovers(held.values()):
        yield InventoryItem("leftover", entry.key, "of a run that has ended", entry.size)


def remove(store: Store, found: InventoryItem) -> None:
    """Delete it; of an attempt all but its events."""
    if not found.key.endswith("/"):
        store.objects.remove([found.key])
        return
    listed = store.objects.entries(found.key)
    events = f"{found.key}{EVENTS}/"
    store.objects.remove(entry.key for entry in listed if not entry.key.startswith(events))
    if len(listed) and not any(entry.key.startswith(events) for entry in listed):
        store.objects.remove_folder(found.key)


def _records(snapshot: StoreSnapshot) -> Iterator[ArtifactRecord]:
    for stage in snapshot.stages():
        yield from snapshot.records(stage)


def _unused(
    snapshot: StoreSnapshot, records: Collection[ArtifactRecord]
) -> Iterator[InventoryItem]:
    """The attempts that made no artifact, and of which no record lists a file."""
    keys = [file.key for record in records for file in record.files.values()]
    used = {"/".join(key.split("/")[:3]) for key in keys}
    used |= {f"{record.stage}/{record.fingerprint}/{record.attempt}" for record in records}
    for stage in snapshot.stages():
        for fingerprint, listed in snapshot.files(stage).items():
            sizes: dict[str, int] = {}
            for name, entry in listed.items():
                attempt, slash, inner = name.partition("/")
                is_event = inner.startswith(f"{EVENTS}/")
                if slash and ATTEMPT.fullmatch(attempt) and not is_event:
                    sizes[attempt] = sizes.get(attempt, 0) + entry.size
            for attempt, size in sorted(sizes.items()):
                key = f"{stage}/{fingerprint}/{attempt}"
                if key not in used:
                    has = any(map(record_number, listed))
                    what = "another attempt was published" if has else "never published"
                    yield InventoryItem("attempt", f"{key}/", what, size)
