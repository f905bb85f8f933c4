"""The artifact store: private attempts, and one record that publishes.

    STORE/<stage>/<fingerprint>/<attempt>/...   the files of one try
    STORE/<stage>/<fingerprint>/record.json     created once: the attempt that won and its files
    STORE/<stage>.parts/<key>/...               the same for the parts of a part-wise stage
    STORE/leases/<stage>/<fingerprint>/...      who is making it (lease.py)

Work is done in an attempt no one else knows of. Publishing is one create-if-absent of the record,
so a late writer loses the race and harms nothing, and a reader sees all of an artifact or none of
it. No one reads a file that was not compared with its record: see `Store.fetch`.
"""

from __future__ import annotations

import errno
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from gpt1.errors import UserError
from gpt1.paths import FILE, is_url, path_of_uri
from gpt1.train.checkpoint import CheckpointStorage
from pipeline.store import cache
from pipeline.store.atomic import parse_json, to_json
from pipeline.store.local import OTHER, LocalObjects
from pipeline.store.objects import Objects
from pipeline.store.record import (
    PARTS,
    ArtifactRecord,
    DamagedArtifact,
    UnreadableRecord,
    record_name,
)
from stages.contract import Artifact, StoredFile, StoredFolder

BEGUN, FAILURE = "begun.json", "failure.json"
DAMAGED = "damaged.json"
"""At the top of a store: the files that `gpt1 verify` found damaged, with their recorded sha256."""
IDENTITY = "store-id.json"
UNREADABLE = "unreadable"
EVENTS = "events"
"""The folder of an attempt, or of a run of the workflow, with what happened (pipeline/tracking)."""
ATTEMPT = re.compile(r"\d{8}-\d{6}\.\d{6}-[0-9a-f]{6}")
"""Names of attempts."""
RESERVED = {"beats", "cache", "leases", "locks", "mlflow-artifacts", "runs"}
"""Folders of a store that are no kinds of stages."""
BROKEN = {errno.EIO, errno.EUCLEAN}
"""What a disk says of a file that it has lost."""
AT_ONCE = 16  # requests under way at one time
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """Why an attempt has no artifact. `stopped`: it was asked to end."""

    error: str
    stopped: bool


@dataclass(frozen=True)
class LastRecord:
    """The last record of an artifact: how many there are, the record where it counts, and the
    problem where it cannot be read.
    """

    number: int = 0
    record: ArtifactRecord | None = None
    problem: str = ""

    @property
    def withdrawn(self) -> int:
        """How many do not count any more."""
        return self.number - 1 if self.counts else self.number

    @property
    def counts(self) -> bool:
        """Whether it keeps others from publishing."""
        return bool(self.record or self.problem)


def read_record(data: bytes | None, number: int, stage: str, fingerprint: str) -> LastRecord:
    """What the bytes of the last record say."""
    if data is None:
        return LastRecord()
    try:
        record = ArtifactRecord.from_bytes(data, stage, fingerprint)
    except UnreadableRecord as why:
        return LastRecord(number, None, f"its {record_name(number)} cannot be read: {why}")
    return LastRecord(number, None if record.withdrawn else record)


@dataclass(frozen=True)
class Store:
    """A store, in a folder or behind an address. Whatever a path is asked for, it is one of this
    host.
    """

    objects: Objects
    run: str = ""
    """Files are checked once for all processes of this run on a host; without one, once in each
    process.
    """

    @staticmethod
    def at(where: Path | str) -> Store:
        """The store at a path, file://path or s3://bucket/folder; a folder is made when something
        is written, for its user alone.

        UserError when it cannot be used.
        """
        text = str(where)
        if not text:
            raise UserError("--store '': found an empty name, expected a folder; give its name")
        if text.startswith("s3:/"):
            from pipeline.store.s3 import S3Objects

            return Store(S3Objects.at(text))
        if is_url(text) and not text.startswith(FILE):
            expected = "expected a folder, file://FOLDER or s3://BUCKET/FOLDER"
            raise UserError(f"{text}: cannot be used as a store; {expected}")
        return Store(LocalObjects.at(path_of_uri(text) if text.startswith(FILE) else Path(where)))

    @staticmethod
    def existing(where: Path | str) -> Store:
        """The same. UserError when there is none."""
        store = Store.at(where)
        if not store.root.is_dir():
            raise UserError(f"{where}: no such store; choose one with --store")
        return store

    def for_run(self, run: str) -> Store:
        """The same for the processes of a run. UserError when nothing can be written to it."""
        store = replace(self, run=run)
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            cache.begin_run(self.root, run)
        except OSError as error:
            problem = f"cannot be used as a store ({error.strerror})"
            raise UserError(f"{self.where}: {problem}; {OTHER}") from None
        return store

    @property
    def where(self) -> str:
        """The store's address, as it is given with --store."""
        return self.objects.url

    @property
    def root(self) -> Path:
        """This host's folder."""
        return self.objects.root

    @property
    def shared(self) -> bool:
        return self.objects.shared

    def identity(self) -> str:
        """A name of this store that no other has, and a moved one keeps; made at the first call."""
        while True:
            found = parse_json(self.objects.read(IDENTITY))
            if isinstance(found, str) and found.isalnum():
                return found
            if found is None and self.objects.create(IDENTITY, to_json(secrets.token_hex(8))):
                continue
            self.objects.remove([IDENTITY])  # damaged

    # Attempts

    @staticmethod
    def attempt_name() -> str:
        """A new name; names sort by the time of their making."""
        seconds, rest = divmod(time.time_ns(), 10**9)
        when = time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
        return f"{when}.{rest // 1000:06d}-{secrets.token_hex(3)}"

    def new_attempt(self, stage: str, fingerprint: str, name: str = "") -> Path:
        """A private folder for one try; one that the driver named may have its events already."""
        attempt = self.root / stage / fingerprint / (name or self.attempt_name())
        attempt.mkdir(parents=True, exist_ok=bool(name))
        if not self.shared:
            self.pin(attempt)
        if not stage.endswith(PARTS):  # no one looks for unfinished tries at a part
            self.leave(attempt, BEGUN, {"when": time.time(), "run": self.run})
        return attempt

    def attempts(self, stage: str, fingerprint: str) -> list[Path]:
        """All attempts, oldest first."""
        folder = f"{stage}/{fingerprint}/"
        keys = [entry.key.removeprefix(folder) for entry in self.objects.entries(folder)]
        names = {key.partition("/")[0] for key in keys if "/" in key}
        return [self.root / folder / name for name in sorted(names)]

    def leave(self, attempt: Path, name: str, data: Any) -> None:
        """Leave JSON in an attempt, or at the top of the store, for who comes after."""
        self.objects.write(self.key(attempt / name), to_json(data))

    def left(self, attempt: Path, name: str) -> Any | None:
        """What was left there; None when it is missing or cannot be read."""
        return parse_json(self.objects.read(self.key(attempt / name)))

    def fail(self, attempt: Path, error: str, stopped: bool = False) -> None:
        """Leave in an attempt why it failed; `stopped`: because it was asked to end."""
        self.leave(attempt, FAILURE, {"error": error, "stopped": stopped, "when": time.time()})
        cache.release(attempt)

    def failure(self, attempt: Path) -> Failure | None:
        """Why an attempt failed; None when it did not, or was killed before it could say."""
        found = self.left(attempt, FAILURE)
        if not isinstance(found, dict) or "error" not in found:
            return None
        return Failure(str(found["error"]), bool(found.get("stopped")))

    # Records

    def last_record(self, stage: str, fingerprint: str) -> LastRecord:
        """The last record of an artifact, as it is now."""
        last = LastRecord()
        while True:
            number = last.number + 1
            data = self.objects.read(f"{stage}/{fingerprint}/{record_name(number)}")
            if data is None:
                return last
            last = read_record(data, number, stage, fingerprint)
            if last.record:  # one that cannot be read may have been withdrawn before
                return last

    def record(self, stage: str, fingerprint: str) -> ArtifactRecord | None:
        """The record of a published artifact, or None."""
        return self.last_record(stage, fingerprint).record

    def artifact(self, stage: str, fingerprint: str) -> Artifact | None:
        """The published artifact, or None."""
        record = self.record(stage, fingerprint)
        return None if record is None else record.artifact()

    def publish(self, record: ArtifactRecord) -> bool:
        """Make the files of an attempt, and those of parts, the artifact.

        False when another attempt was first; then nothing has changed.
        """
        folder = f"{record.stage}/{record.fingerprint}"
        last = self.last_record(record.stage, record.fingerprint)
        won = not (last.record or last.problem)
        if won:
            files = record.files.values()
            own = [file for file in files if file.key.startswith(f"{folder}/{record.attempt}/")]
            self.all(lambda file: self.objects.upload(file.key, self.path(file), file.sha256), own)
            key = f"{folder}/{record_name(last.number + 1)}"
            won = self.objects.create(key, record.to_bytes())
        cache.release(self.root / folder / record.attempt)
        return won

    def withdraw(self, stage: str, fingerprint: str, why: str, seen: int = 0) -> None:
        """Take back the record that counts (a forced rerun, or damage). Its files stay.

        A record that cannot be read is set aside under a name that says so. `seen`: the number of
        the record that is meant; a later one stays.
        """
        last = self.last_record(stage, fingerprint)
        if seen and last.number != seen:
            return
        key = f"{stage}/{fingerprint}/{record_name(last.number)}"
        if last.problem and (data := self.objects.read(key)) is not None:
            self.objects.create(f"{stage}/{fingerprint}/{UNREADABLE}-{last.number}.json", data)
        if last.record or last.problem:
            empty = ArtifactRecord(
                stage=stage, fingerprint=fingerprint, attempt="", cell="", digest="", files={}
            )
            gone = (last.record or empty).model_copy(update={"withdrawn": why})
            self.objects.write(key, gone.to_bytes())

    # Files

    def key(self, path: Path) -> str:
        """The key of what is at a path below `root`."""
        return path.relative_to(self.root).as_posix()

    def path(self, file: StoredFile) -> Path:
        """Where a file is, or will be, on this host."""
        return self.root / file.key

    def fetch(self, file: StoredFile) -> Path:
        """The path of a file on this host, where it is as its record says: its sha256 is taken
        once a run and host (of a process that belongs to no run, once).

        Raises DamagedArtifact when it is missing or has other content.
        """
        path, place = self.path(file), (self.root, self.run, file)
        if not cache.is_checked(*place):
            with cache.locked(self.root, file.key):
                if not cache.is_checked(*place):
                    self._check(file)
                    cache.remember_checked(*place)
        if not self.shared:
            cache.touch(path)
        return path

    def _check(self, file: StoredFile) -> None:
        what = self.problem_of(file, lambda key: self.objects.obtain(key, file.sha256))
        if what:
            found = f"the file {what}, but its record says {file.sha256[:12]}"
            raise DamagedArtifact(f"{file.key}: {found}; `gpt1 run` makes it again", (file.key,))

    def problem_of(self, file: StoredFile, read: Callable[[str], str | None] | None = None) -> str:
        """What is wrong with a file, read to its end; nothing where it is as its record says.

        `read` gives the sha256 of a key. UserError when that cannot be known.
        """
        try:
            found = (read or self.objects.sha256)(file.key)
        except OSError as error:
            if self.shared and error.errno in BROKEN:
                return f"cannot be read ({error.strerror})"
            advice = "nothing is known of the file: fix that, and run the same command again"
            raise UserError(f"{self.path(file)}: {error.strerror}; {advice}") from None
        if found is None:
            return "is missing"
        return "" if found == file.sha256 else f"has sha256 {found[:12]}"

    def fetch_folder(self, artifact: Artifact, name: str) -> Path:
        """The folder on this host with the file of that name and those beside it."""
        folder = artifact.file(name).key.rpartition("/")[0]
        beside = [f for f in artifact.files.values() if f.key.rpartition("/")[0] == folder]
        return self.all(self.fetch, beside)[0].parent

    def folder(self, path: Path) -> StoredFolder:
        return StoredFolder(self.key(path))

    def localize(self, value: Any) -> Any:
        found: list[StoredFile | StoredFolder] = []
        _replace(value, found.append)
        files = [one for one in found if isinstance(one, StoredFile)]
        paths: dict[Any, Path] = dict(zip(files, self.all(self.fetch, files), strict=True))
        return _replace(value, lambda one: paths.get(one) or self._folder(one))

    def _folder(self, folder: StoredFile | StoredFolder) -> Path:
        path = self.root / folder.key
        if not self.shared:
            self.pin(path)
        return path

    def pin(self, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        return cache.pin(folder)

    @property
    def storage(self) -> CheckpointStorage:
        return self.objects.storage

    def show(self, file: StoredFile, name: str) -> None:
        """Copy a file of an artifact to `name` at the top of the store."""
        data = self.fetch(file).read_bytes()
        if self.objects.read(name) != data:  # a store that is read only may have it
            self.objects.write(name, data)

    def shown(self, name: str) -> str | None:
        """Where `name` at the top of the store is to be seen; None when nothing was shown."""
        if self.objects.read(name) is None:
            return None
        return str(self.root / name) if self.shared else self.objects.address(name)

    @staticmethod
    def all(action: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """`action` of every item, several at a time; the first exception is raised."""
        items = list(items)
        if len(items) < 2:
            return [action(item) for item in items]
        with ThreadPoolExecutor(min(AT_ONCE, len(items))) as pool:
            return list(pool.map(action, items))


def _replace(value: Any, change: Callable[[StoredFile | StoredFolder], Any]) -> Any:
    """`value` with `change` of each StoredFile and StoredFolder in it."""
    if isinstance(value, StoredFile | StoredFolder):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _replace(inner, change) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_replace(inner, change) for inner in value)
    return value
