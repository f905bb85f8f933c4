"""All that is in a store: what is damaged, and what nobody needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

from pipeline.store.base import ATTEMPT, DAMAGED, UNREADABLE, Store
from pipeline.store.lease import Leases
from pipeline.store.record import PARTS, ArtifactRecord, RecordedFile, record_number
from pipeline.store.snapshot import StoreSnapshot

ABANDONED = 3600.0  # seconds after which a file that a process has not finished is a leftover


@dataclass(frozen=True)
class InventoryItem:
    """Something in a store. `key`: its place; one of an attempt ends with a slash."""

    kind: str
    key: str
    what: str
    size: int = 0


def damage(
    store: Store, progress: Callable[[int, int], None] = lambda *_: None
) -> Iterator[InventoryItem]:
    """Compare every file of every record with it; `progress` gets bytes done and in all.

    Also records that cannot be read, and attempts that belong to no record. In the end, runs know
    of what was found.
    """
    snapshot = StoreSnapshot(store)
    records = list(_records(snapshot))
    files = {file.key: file for record in records for file in record.files.values()}
    yield from _unreadable(snapshot)
    found: dict[str, str] = {}
    for record in records:
        for key, what in snapshot.damage(record).items():
            if found.setdefault(key, what) == what:
                yield InventoryItem("damaged", key, what)
    done, total = 0, sum(file.size for file in files.values())
    for key, file in files.items():
        if key not in found and (what := _compare(store, file)):
            found[key] = what
            yield InventoryItem("damaged", key, what)
        done += file.size
        progress(done, total)
    yield from _unused(snapshot, records)
    with suppress(OSError):  # a store that is read only
        store.leave(store.root, DAMAGED, {k: files[k].sha256 for k in found if k in files})


def garbage(
    store: Store, leases: Leases, unfinished: bool, needed: Collection[str]
) -> Iterator[InventoryItem]:
    """What no record lists and no run may be writing or continue from: attempts, what was set
    aside, and leftovers.

    Of a job that somebody holds no attempt is garbage, nor is one at a part of its stage. A job
    without a record may continue from its attempts: they are garbage if `unfinished`, but for the
    jobs that are `needed` (STAGE/FINGERPRINT). `leases`: the caller's.
    """
    snapshot, held = StoreSnapshot(store), leases.held()
    for found in _unused(snapshot, list(_records(snapshot))):
        stage, fingerprint, *_ = found.key.split("/")
        own = stage.removesuffix(PARTS)
        wanted = any(job.startswith(f"{own}/") for job in held)
        if stage == own:
            job, is_made = f"{stage}/{fingerprint}", snapshot.record(stage, fingerprint) is not None
            wanted = job in held or not (is_made or (unfinished and job not in needed))
        if not wanted:
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
    """Delete it."""
    if found.key.endswith("/"):
        store.objects.remove_folder(found.key)
    else:
        store.objects.remove([found.key])


def _records(snapshot: StoreSnapshot) -> Iterator[ArtifactRecord]:
    for stage in snapshot.stages():
        yield from snapshot.records(stage)


def _unreadable(snapshot: StoreSnapshot) -> Iterator[InventoryItem]:
    for stage in snapshot.stages():
        for fingerprint in snapshot.files(stage):
            if problem := snapshot.last_record(stage, fingerprint).problem:
                yield InventoryItem("unreadable", f"{stage}/{fingerprint}", problem)


def _compare(store: Store, file: RecordedFile) -> str:
    try:
        sha256 = store.objects.sha256(file.key)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if sha256 == file.sha256 else f"has sha256 {str(sha256)[:12]}, not {file.sha256[:12]}"


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
                attempt, slash, _ = name.partition("/")
                if slash and ATTEMPT.fullmatch(attempt):
                    sizes[attempt] = sizes.get(attempt, 0) + entry.size
            for attempt, size in sorted(sizes.items()):
                key = f"{stage}/{fingerprint}/{attempt}"
                if key not in used:
                    has = any(map(record_number, listed))
                    what = "another attempt was published" if has else "never published"
                    yield InventoryItem("attempt", f"{key}/", what, size)
