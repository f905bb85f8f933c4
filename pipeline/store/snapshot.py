"""A store as it was when it was looked at: what a plan reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.store.atomic import parse_json, replace_file, unsign
from pipeline.store.base import DAMAGED, RESERVED, LastRecord, Store, read_record
from pipeline.store.objects import ListedObject
from pipeline.store.record import (
    PARTS,
    ArtifactRecord,
    UnreadableRecord,
    record_name,
    record_number,
)

Listing = dict[str, dict[str, ListedObject]]
"""By fingerprint, and by the rest of the key."""


class StoreSnapshot:
    """Lists each kind of stage once, when it is first asked for, and reads each record once.

    What this host has read of a store that hosts do not share is in its cache: one file a kind.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._listed: dict[str, Listing] = {}
        self._read: dict[tuple[str, str], LastRecord] = {}
        self._whole: set[str] = set()
        self._damaged: dict[str, str] | None = None

    def last_record(self, stage: str, fingerprint: str) -> LastRecord:
        """The last record of an artifact."""
        if not stage.endswith(PARTS):  # all of the kind will be asked for
            self._read_all(stage)
        elif (stage, fingerprint) not in self._read:
            self.prefetch(stage, [fingerprint])
        return self._read.get((stage, fingerprint), LastRecord())

    def record(self, stage: str, fingerprint: str) -> ArtifactRecord | None:
        """The record of a published artifact, or None."""
        return self.last_record(stage, fingerprint).record

    def records(self, stage: str) -> Iterator[ArtifactRecord]:
        """All records of one kind of stage that count, in the order of their fingerprints."""
        self._read_all(stage)
        for fingerprint in sorted(self._listing(stage)):
            record = self._read.get((stage, fingerprint), LastRecord()).record
            if record is not None:
                yield record

    def history(self) -> Iterator[ArtifactRecord]:
        """All records of all jobs, also those that were withdrawn."""
        for stage in self.stages():
            if not stage.endswith(PARTS):
                for fingerprint, files in self._listing(stage).items():
                    yield from self._all_records(stage, fingerprint, files)

    def stages(self) -> list[str]:
        """All kinds in the store that have artifacts or attempts, those of parts too."""
        return [
            folder
            for folder in self.store.objects.folders()
            if folder not in RESERVED and not folder.startswith(".")
        ]

    def files(self, stage: str) -> Listing:
        """All files of a kind."""
        return self._listing(stage)

    def prefetch(self, stage: str, fingerprints: Iterable[str]) -> None:
        """Read these records together."""
        listing = self._listing(stage)
        wanted = [f for f in fingerprints if f in listing and (stage, f) not in self._read]
        self._read_some(stage, wanted)

    def attempts(self, stage: str, fingerprint: str) -> list[Path]:
        """All attempts, oldest first."""
        keys = self._listing(stage).get(fingerprint, {})
        names = {key.partition("/")[0] for key in keys if "/" in key}
        return [self.store.root / stage / fingerprint / name for name in sorted(names)]

    def damage(self, record: ArtifactRecord) -> dict[str, str]:
        """The files that are missing, have another size than recorded, or were found damaged by
        `gpt1 verify`: key -> what is wrong.

        Content is compared when a file is read (`Store.fetch`).
        """
        if self._damaged is None:
            said = self.store.left(self.store.root, DAMAGED)
            self._damaged = said if isinstance(said, dict) else {}
        found = {}
        for name, file in record.files.items():
            stage, fingerprint, rest = file.key.split("/", 2)
            there = self._listing(stage).get(fingerprint, {}).get(rest)
            if there is None:
                found[file.key] = f"file {name} is missing from the store"
            elif there.size != file.size:
                found[file.key] = (
                    f"file {name} has {there.size} bytes in the store, but {file.size} in its"
                    " record"
                )
            elif self._damaged.get(file.key) == file.sha256:
                found[file.key] = f"file {name} has other content than recorded (`gpt1 verify`)"
        return found

    def _listing(self, stage: str) -> Listing:
        if stage not in self._listed:
            found: Listing = {}
            for entry in self.store.objects.entries(f"{stage}/"):
                _, fingerprint, rest = [*entry.key.split("/", 2), ""][:3]
                found.setdefault(fingerprint, {})[rest] = entry
            self._listed[stage] = found
        return self._listed[stage]

    def _read_all(self, stage: str) -> None:
        if stage not in self._whole:
            self.prefetch(stage, list(self._listing(stage)))
            self._whole.add(stage)

    def _read_some(self, stage: str, fingerprints: list[str]) -> None:
        last = {}
        for fingerprint in fingerprints:
            number = max(map(record_number, self._listing(stage)[fingerprint]), default=0)
            if number:
                last[fingerprint] = number
        kept = {} if self.store.shared else self._kept(stage)
        texts, new = {}, []
        for fingerprint, number in last.items():
            entry = self._listing(stage)[fingerprint][record_name(number)]
            match kept.get(entry.key):
                case [entry.mark, str(text)] if unsign(text.encode()) is not None:
                    texts[fingerprint] = text.encode()
                case _:
                    new.append((fingerprint, entry))
        read = self.store.objects.read
        keys = [entry.key for _, entry in new]
        found = [read(k) for k in keys] if self.store.shared else self.store.all(read, keys)
        for (fingerprint, entry), data in zip(new, found, strict=True):
            if data is not None:
                texts[fingerprint] = data
                if unsign(data) is not None:
                    kept[entry.key] = [entry.mark, data.decode()]
        if new and not self.store.shared:
            with suppress(OSError):
                replace_file(self._kept_file(stage), json.dumps(kept).encode())
        for fingerprint, data in texts.items():
            self._read[stage, fingerprint] = read_record(
                data, last[fingerprint], stage, fingerprint
            )

    def _kept_file(self, stage: str) -> Path:
        return self.store.root / "cache" / "records" / f"{stage}.json"

    def _kept(self, stage: str) -> dict[str, Any]:
        """What this host has read before: by key, the object's mark and the record. An entry that
        is wrong costs a request.
        """
        with suppress(OSError):
            found = parse_json(self._kept_file(stage).read_bytes())
            if isinstance(found, dict):
                return found
        return {}

    def _all_records(
        self, stage: str, fingerprint: str, files: dict[str, ListedObject]
    ) -> Iterator[ArtifactRecord]:
        for name in sorted(files, key=record_number):
            if record_number(name):
                data = self.store.objects.read(files[name].key) or b""
                with suppress(UnreadableRecord):
                    found = ArtifactRecord.from_bytes(data, stage, fingerprint)
                    if found.files:  # what replaced one that could not be read has none
                        yield found
