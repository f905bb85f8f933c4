"""How paths and files of a remote store get from one host to another (the `Travel` of the stage
contract).

Paths below a store's folder of one host's cache mean objects: on another host the same objects lie
below another folder.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.store import cache
from pipeline.store.cache import Item

if TYPE_CHECKING:
    from pipeline.store.remote_store import RemoteStore


@dataclass(frozen=True)
class StoreTravel:
    """Carries what belongs to `store`; `origin` is the store's folder on the host where the
    paths were written down.
    """

    store: RemoteStore
    origin: Path

    def here(self, value: Any) -> Any:
        if isinstance(value, str):
            return str(self._path(Path(value))) if value.startswith(f"{self.origin}/") else value
        if isinstance(value, Path):
            return self._path(value) if value.is_relative_to(self.origin) else value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {
                field.name: getattr(value, field.name)
                for field in dataclasses.fields(value)
                if field.init
            }
            return dataclasses.replace(
                value, **{name: self.here(inner) for name, inner in fields.items()}
            )
        if isinstance(value, Mapping):
            return {key: self.here(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.here(inner) for inner in value)
        return value

    def mark(self, folder: Path) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        return cache.mark_busy(folder)

    def list(self, folder: Path) -> Sequence[str]:
        prefix = f"{self._key(folder)}/"
        return [entry.key.removeprefix(prefix) for entry in self.store.objects.entries(prefix)]

    def upload(self, folder: Path, name: str, file: Path) -> None:
        self.store.objects.upload(f"{self._key(folder)}/{name}", file)

    def read(self, folder: Path, name: str) -> bytes | None:
        found = self.store.objects.read(f"{self._key(folder)}/{name}")
        return None if found is None else found.data

    def download(self, folder: Path, name: str, file: Path) -> Path | None:
        file.parent.mkdir(parents=True, exist_ok=True)
        found = self.store.objects.download(f"{self._key(folder)}/{name}", file)
        return None if found is None else file

    def delete(self, folder: Path, names: Sequence[str]) -> None:
        self.store.objects.remove(f"{self._key(folder)}/{name}" for name in names)

    def _key(self, folder: Path) -> str:
        """Of a folder of this host, or of the host where the paths were written down."""
        root = self.origin if folder.is_relative_to(self.origin) else self.store.root
        return folder.relative_to(root).as_posix()

    def _path(self, path: Path) -> Path:
        key = path.relative_to(self.origin).as_posix()
        here = self.store.root / key
        items = self._items(key)
        if any(
            item.key == key for item in items
        ):  # a file, with those of its folder: code finds siblings by their names
            key = key.rpartition("/")[0]
        wanted = [item for item in items if item.key.startswith(f"{key}/")]
        self.store.fetch(wanted)
        if not wanted and key.count("/") == 2:  # the folder of an attempt that is not published yet
            self.mark(here)
        return here

    def _items(self, key: str) -> tuple[Item, ...]:
        """The files of the artifact to which a key belongs, by its record."""
        steps = key.split("/")
        return _recorded(self.store, steps[0], steps[1], steps[2]) if len(steps) > 2 else ()


def _recorded(store: RemoteStore, stage: str, fingerprint: str, attempt: str) -> tuple[Item, ...]:
    found = _remembered(store, stage, fingerprint, attempt)
    if not found:  # not published, or not yet: ask again next time
        _remembered.cache_clear()
    return found


@functools.lru_cache(maxsize=4096)
def _remembered(store: RemoteStore, stage: str, fingerprint: str, attempt: str) -> tuple[Item, ...]:
    record = store.record(stage, fingerprint) or {"files": {}}
    return tuple(
        Item(entry["path"], entry["size"], entry["sha256"])
        for entry in record["files"].values()
        if entry["path"].startswith(f"{stage}/{fingerprint}/{attempt}/")
    )
