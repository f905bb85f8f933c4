"""A remote store as it was when it was looked at, for plans: few requests, however many
artifacts there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from pipeline.store.atomic import parse_json, replace
from pipeline.store.remote_store import RemoteStore
from pipeline.store.base import PARTS, RECORD, WITHDRAWN, valid


class SeenStore(RemoteStore):
    """A remote store as it was when it was looked at: one listing a kind (a request a thousand
    objects), and each record read once.

    Records this host has read before are taken from its cache while their marks are the same.
    """

    @cached_property
    def _listed(self) -> dict[str, dict[str, Any]]:
        return {}

    @cached_property
    def _read(self) -> dict[str, dict[str, Any] | None]:
        return {}

    def _kind(self, kind: str) -> dict[str, Any]:
        if kind not in self._listed:
            self._listed[kind] = {entry.key: entry for entry in self.objects.entries(f"{kind}/")}
        return self._listed[kind]

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStore, (self.objects,)

    def record(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        key = f"{stage}/{fingerprint}/{RECORD}"
        if key not in self._read:
            if not stage.endswith(PARTS):  # all of a kind will be asked for
                self._read_all([key for key in self._kind(stage) if _is_record(key)])
            elif key in self._kind(stage):
                self._read_all([key])
        return self._read.get(key)

    def records(self, stage: str) -> Iterator[dict[str, Any]]:
        keys = [key for key in self._kind(stage) if _is_record(key)]
        self._read_all(keys)
        return (record for key in sorted(keys) if (record := self._read[key]) is not None)

    def history(self) -> Iterator[dict[str, Any]]:
        for kind in self.objects.folders():
            if not kind.endswith(PARTS):
                keys = [
                    key for key in self._kind(kind) if _is_record(key) or _is_record(key, WITHDRAWN)
                ]
                self._read_all(keys)
                yield from (record for key in keys if (record := self._read[key]) is not None)

    def read_ahead(self, kind: str, fingerprints: Sequence[str]) -> None:
        """Read these records together."""
        listed = self._kind(kind)
        self._read_all(
            [key for print_ in fingerprints if (key := f"{kind}/{print_}/{RECORD}") in listed]
        )

    def published(self, stage: str, fingerprint: str) -> bool:
        return f"{stage}/{fingerprint}/{RECORD}" in self._kind(stage)

    def _entries(self, prefix: str) -> list[Any]:
        return [
            entry
            for key, entry in self._kind(prefix.partition("/")[0]).items()
            if key.startswith(prefix)
        ]

    def _sizes(self, folders: Sequence[str]) -> dict[str, int]:
        kinds = {folder.partition("/")[0] for folder in folders}
        return {key: entry.size for kind in kinds for key, entry in self._kind(kind).items()}

    def _read_all(self, keys: Sequence[str]) -> None:
        new = [key for key in keys if key not in self._read]
        for key, record in zip(new, self._all(self._read_one, new), strict=True):
            self._read[key] = record

    def _read_one(self, key: str) -> dict[str, Any] | None:
        kind, fingerprint, _ = key.split("/")
        mark = self._kind(kind)[key].etag.strip('"')
        kept = self.root / "cache" / "records" / kind / f"{fingerprint}-{mark}.json"
        with suppress(OSError):
            if (record := valid(parse_json(kept.read_bytes()))) is not None:
                return record
        found = self.objects.read(key)
        record = None if found is None else valid(parse_json(found.data))
        if record is not None:
            replace(kept, record)
        return record


def _is_record(key: str, name: str = RECORD) -> bool:
    return key.count("/") == 2 and key.rpartition("/")[2].startswith(name)
