"""A store behind an address (s3://): the same rules as in a folder, with objects for files and a
cache on every host.

An attempt is worked on in a private folder of the cache. Publishing uploads its files, then creates
the record by ONE conditional request: a late writer loses the race and harms nothing, and a reader
sees all of an artifact or none of it. Keys are the paths that a store in a folder has, so that `aws
s3 sync` turns one into the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.store import cache
from pipeline.store.cache import Item
from pipeline.store.atomic import parse_json, replace
from pipeline.store.objects import SCHEME, Objects
from pipeline.outbox_mirror import OutboxMirror
from pipeline.store.remote_file import RemoteFile
from pipeline.store.base import LEASE, PARTS, RECORD, WITHDRAWN, Store, _record, artifact_of, valid
from pipeline.store.travel import StoreTravel
from pipeline.store.words import ObjectWord, Word
from stages.contract import Artifact, OutputFile, Travel

if TYPE_CHECKING:
    from pipeline.store.seen_store import SeenStore

BEGUN = "begun.json"
AT_ONCE = 16  # requests under way at one time


class RemoteStore(Store):
    """A store at s3://bucket/folder. `root` is this host's folder for it in the cache."""

    def __init__(self, objects: Objects) -> None:
        object.__setattr__(self, "objects", objects)

    objects: Objects

    @staticmethod
    def reached(url: str) -> RemoteStore:
        """The store at a URL. UserError when it cannot be reached."""
        rest = url.removeprefix("s3:").lstrip("/")  # a path object has made one of the two slashes
        store = RemoteStore(Objects.at(SCHEME + rest))
        assert store.root
        return store

    @property
    def root(self) -> Path:
        return cache.cache_root(self.objects.url)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStore, (self.objects,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and self.objects == other.objects

    def __hash__(self) -> int:
        return hash(self.objects)

    def __repr__(self) -> str:
        return f"RemoteStore({self.objects.url!r})"

    @property
    def where(self) -> str:
        return self.objects.url

    @property
    def travel(self) -> Travel:
        return StoreTravel(self, self.root)

    def key(self, path: Path) -> str:
        """The key of what lies at a path below `root`."""
        return path.relative_to(self.root).as_posix()

    def new_attempt(self, stage: str, fingerprint: str) -> Path:
        attempt = super().new_attempt(stage, fingerprint)
        cache.mark_busy(attempt)
        if not stage.endswith(PARTS):  # nobody looks for unfinished tries at a part
            self.leave(attempt, BEGUN, {"when": time.time()})
        return attempt

    def attempts(self, stage: str, fingerprint: str) -> list[Path]:
        names = {
            entry.key.split("/")[2]
            for entry in self._entries(f"{stage}/{fingerprint}/")
            if entry.key.count("/") > 2
        }
        return [self.folder(stage, fingerprint) / name for name in sorted(names)]

    def address(self, path: Path) -> str:
        return self.objects.address(self.key(path))

    def file_address(self, file: OutputFile) -> str:
        return self.objects.address(self._key_of(file))

    def owns(self, artifact: Artifact, file: OutputFile) -> bool:
        return self._key_of(file).startswith(f"{artifact.stage}/{artifact.fingerprint}/")

    def local(self, address: str) -> Path:
        if not address.startswith(f"{self.objects.url}/"):
            return super().local(address)
        key = address.removeprefix(f"{self.objects.url}/")
        try:
            return super().local(self.travel.here(str(self.root / key)))
        except cache.GoneError as error:
            raise LookupError(f"{address}: {error}") from None

    def publish(
        self, stage: str, fingerprint: str, files: Mapping[str, OutputFile],
        about: Mapping[str, Any],
    ) -> bool:
        if self.published(stage, fingerprint):
            return False
        listed = {
            name: {
                "path": self._key_of(file), "size": file.size, "sha256": file.sha256,
                "volatile": file.volatile,
            }
            for name, file in files.items()
        }
        own = [file for file in files.values() if not isinstance(file, RemoteFile)]
        self._all(lambda file: self.objects.upload(self._key_of(file), file.path, file.sha256), own)
        record = _record(stage, fingerprint, files, listed, about)
        won = self.objects.create(f"{stage}/{fingerprint}/{RECORD}", _json(record))
        cache.release(self.folder(stage, fingerprint) / str(about.get("attempt", "")))
        return won

    def record(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        found = self.objects.read(f"{stage}/{fingerprint}/{RECORD}")
        return None if found is None else valid(parse_json(found.data))

    def published(self, stage: str, fingerprint: str) -> bool:
        return self._there(f"{stage}/{fingerprint}/{RECORD}")

    def to_artifact(self, record: Mapping[str, Any]) -> Artifact:
        folders: dict[str, list[Item]] = {}
        for entry in record["files"].values():
            folders.setdefault(entry["path"].rpartition("/")[0], []).append(
                Item(entry["path"], entry["size"], entry["sha256"])
            )
        files = {
            name: RemoteFile(self, name, entry, folders[entry["path"].rpartition("/")[0]])
            for name, entry in record["files"].items()
        }
        return artifact_of(record, files)

    def damage(self, artifact: Artifact) -> str | None:
        sizes = self._sizes(
            sorted(
                {
                    "/".join(self._key_of(file).split("/")[:2]) + "/"
                    for file in artifact.files.values()
                }
            )
        )
        for file in artifact.files.values():
            size = sizes.get(self._key_of(file))
            if size is None:
                return f"file {file.name} is missing from the store"
            if size != file.size:
                return (
                    f"file {file.name} has {size} bytes in the store, but {file.size} in its record"
                )
        return None

    def withdraw(self, stage: str, fingerprint: str) -> None:
        folder = f"{stage}/{fingerprint}"
        found = self.objects.read(f"{folder}/{RECORD}")
        if found is not None:
            self.objects.write(f"{folder}/{WITHDRAWN}{time.time_ns()}.json", found.data)
            self.objects.remove([f"{folder}/{RECORD}"])

    def withdrawn(self, stage: str, fingerprint: str) -> int:
        return len(self._entries(f"{stage}/{fingerprint}/{WITHDRAWN}"))

    def records(self, stage: str) -> Iterator[dict[str, Any]]:
        return self.seen([stage]).records(stage)

    def history(self) -> Iterator[dict[str, Any]]:
        return self.seen(()).history()

    def seen(self, kinds: Iterable[str]) -> SeenStore:
        from pipeline.store.seen_store import SeenStore

        del kinds  # listed when they are first asked for
        return SeenStore(self.objects)

    def lease(self, stage: str, fingerprint: str) -> Word:
        return ObjectWord(self.objects, f"{stage}/{fingerprint}/{LEASE}")

    def leave(self, attempt: Path, name: str, data: Any) -> None:
        replace(attempt / name, data)
        self.objects.write(self.key(attempt / name), _json(data))

    def left(self, attempt: Path, name: str) -> Any | None:
        found = self.objects.read(self.key(attempt / name))
        return None if found is None else parse_json(found.data)

    def fail(self, attempt: Path, error: str, user: bool, stopped: bool = False) -> None:
        super().fail(attempt, error, user, stopped)
        cache.release(attempt)

    def outbox_mirror(self, folder: Path) -> OutboxMirror:
        return OutboxMirror(self.objects, folder)

    def show(self, file: OutputFile, name: str) -> None:
        self.objects.upload(name, file.path, file.sha256)

    def shown(self, name: str) -> str | None:
        return self.objects.address(name) if self._there(name) else None

    def fetch(self, items: Sequence[Item]) -> None:
        """Have these files on this host.

        UserError when one is gone, or is not what its record says.
        """
        root = self.root
        missing = [item for item in items if not cache.there(root, item)]
        self._all(lambda item: cache.fetch(root, item, self.objects.download), missing)

    def _there(self, key: str) -> bool:
        return any(entry.key == key for entry in self.objects.entries(key, most=1))

    def _key_of(self, file: OutputFile) -> str:
        return file.item.key if isinstance(file, RemoteFile) else self.key(file.path)

    def _entries(self, prefix: str) -> list[Any]:
        return self.objects.entries(prefix)

    def _sizes(self, folders: Sequence[str]) -> dict[str, int]:
        found = self._all(self._entries, folders)
        return {entry.key: entry.size for entries in found for entry in entries}

    @staticmethod
    def _all(action: Any, items: Sequence[Any]) -> list[Any]:
        """`action` of every item, several at a time; the first exception is raised."""
        if len(items) < 2:
            return [action(item) for item in items]
        with ThreadPoolExecutor(min(AT_ONCE, len(items))) as pool:
            return list(pool.map(action, items))


def _json(data: Any) -> bytes:
    return (json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()
