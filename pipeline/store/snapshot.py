"""A store as it was when it was looked at: what a plan reads."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from gpt1.errors import UserError
from pipeline.store.atomic import read_signed, replace_file
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
Wanted = dict[str, tuple[int, ListedObject]]
"""By fingerprint: the number of the last record, and the object."""
Copies = dict[str, tuple[str, bytes]]
"""Of records, by key: the object's mark, and its bytes."""
RECORDS = "cache/records"
MANY = 64  # records that a host has to read one by one, before it leaves copies for others


class StoreSnapshot:
    """Lists each kind of stage once, when it is first asked for, and reads each record once.

    What this host has read of a store that hosts do not share is in its cache, one file a kind;
    what was much to read also in the store, for hosts that have read nothing. A copy counts while
    its object's mark is the one listed and its sha256 is right; else it costs a request.
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

    def records(self, stage: str) -> Iterator[ArtifactRecord]:
        """All records of one kind of stage that count, in the order of their fingerprints."""
        self._read_all(stage)
        for fingerprint in sorted(self.files(stage)):
            record = self._read.get((stage, fingerprint), LastRecord()).record
            if record is not None:
                yield record

    def history(self) -> Iterator[ArtifactRecord]:
        """All records of all jobs, also those that were withdrawn."""
        for stage in self.stages():
            if stage.endswith(PARTS):
                continue
            for fingerprint, files in self.files(stage).items():
                for name in sorted(filter(record_number, files), key=record_number):
                    data = self.store.objects.read(files[name].key) or b""
                    with suppress(UnreadableRecord):
                        found = ArtifactRecord.from_bytes(data, stage, fingerprint)
                        if found.files:  # what replaced one that could not be read has none
                            yield found

    def stages(self) -> list[str]:
        """All kinds in the store that have artifacts or attempts, those of parts too."""
        folders = self.store.objects.folders()
        return [name for name in folders if name not in RESERVED and not name.startswith(".")]

    def prefetch(self, stage: str, fingerprints: Iterable[str]) -> None:
        """Read these records together."""
        listing = self.files(stage)
        wanted: Wanted = {}
        for fingerprint in fingerprints:
            if fingerprint in listing and (stage, fingerprint) not in self._read:
                files = listing[fingerprint]
                number = max(map(record_number, files), default=0)
                if number:
                    wanted[fingerprint] = number, files[record_name(number)]
        if self.store.shared:
            for fingerprint, (number, entry) in wanted.items():
                self._understand(stage, fingerprint, number, self.store.objects.read(entry.key))
        else:
            self._read_remote(stage, wanted)

    def attempts(self, stage: str, fingerprint: str) -> list[Path]:
        """All attempts, oldest first."""
        keys = self.files(stage).get(fingerprint, {})
        names = {key.partition("/")[0] for key in keys if "/" in key}
        return [self.store.root / stage / fingerprint / name for name in sorted(names)]

    def has(self, attempt: Path, name: str) -> bool:
        """Whether a file of that name was left in an attempt."""
        stage, fingerprint, attempt_name = self.store.key(attempt).split("/")
        return f"{attempt_name}/{name}" in self.files(stage).get(fingerprint, {})

    def damage(self, record: ArtifactRecord) -> dict[str, str]:
        """The files that are missing, have another size than recorded, or were found damaged by
        `gpt1 verify`: key -> what is wrong.

        Content is compared when a file is read (`Store.fetch`).
        """
        if self._damaged is None:
            data = self.store.objects.read(DAMAGED)
            self._damaged = dict(((data and read_signed(data)) or {}).get("files", {}))
        found = {}
        for name, file in record.files.items():
            stage, fingerprint, rest = file.key.split("/", 2)
            there = self.files(stage).get(fingerprint, {}).get(rest)
            if there is None:
                found[file.key] = f"file {name} is missing from the store"
            elif there.size != file.size:
                sizes = f"{there.size} bytes in the store, but {file.size} in its record"
                found[file.key] = f"file {name} has {sizes}"
            elif self._damaged.get(file.key) == file.sha256:
                found[file.key] = f"file {name} has other content than recorded (`gpt1 verify`)"
        return found

    def files(self, stage: str) -> Listing:
        """All files of a kind."""
        if stage not in self._listed:
            found: Listing = {}
            for entry in self.store.objects.entries(f"{stage}/"):
                _, fingerprint, rest = [*entry.key.split("/", 2), ""][:3]
                found.setdefault(fingerprint, {})[rest] = entry
            self._listed[stage] = found
        return self._listed[stage]

    def _read_all(self, stage: str) -> None:
        if stage not in self._whole:
            self.prefetch(stage, list(self.files(stage)))
            self._whole.add(stage)

    def _read_remote(self, stage: str, wanted: Wanted) -> None:
        """Read what neither this host nor the store has a copy of, and leave copies."""
        many = max(MANY, len(wanted) // 16)
        own = self.store.root / RECORDS / stage
        copies: Copies = {}
        with suppress(OSError):
            copies = unpack(own.read_bytes())
        there = missing = self._use(stage, wanted, copies)
        if len(missing) >= many:
            copies |= unpack(self.store.objects.read(f"{RECORDS}/{stage}"))
            missing = self._use(stage, missing, copies)
        read = self.store.objects.read
        found = self.store.all(read, [entry.key for _, entry in missing.values()])
        for (fingerprint, (number, entry)), data in zip(missing.items(), found, strict=True):
            self._understand(stage, fingerprint, number, data)
            if data is not None:
                copies[entry.key] = entry.mark, data
        if there:
            files = self.files(stage).values()
            marks = {entry.key: entry.mark for listed in files for entry in listed.values()}
            packed = pack({key: copy for key, copy in copies.items() if marks.get(key) == copy[0]})
            with suppress(OSError):
                replace_file(own, packed, durable=False)
            if len(missing) >= many:
                with suppress(UserError):  # no one must be allowed to write, to look
                    self.store.objects.write(f"{RECORDS}/{stage}", packed)

    def _use(self, stage: str, wanted: Wanted, copies: Copies) -> Wanted:
        """Read what there are good copies of; returns the rest."""
        rest: Wanted = {}
        for fingerprint, (number, entry) in wanted.items():
            mark, data = copies.get(entry.key, ("", b""))
            if mark == entry.mark:
                self._understand(stage, fingerprint, number, data)
            if mark != entry.mark or self._read[stage, fingerprint].problem:
                rest[fingerprint] = number, entry
        return rest

    def _understand(self, stage: str, fingerprint: str, number: int, data: bytes | None) -> None:
        self._read[stage, fingerprint] = read_record(data, number, stage, fingerprint)


def pack(copies: Copies) -> bytes:
    """Copies of records as one compressed file."""
    texts = {key: (mark, data.decode("latin-1")) for key, (mark, data) in copies.items()}
    return zlib.compress(json.dumps(texts).encode(), 1)


def unpack(packed: bytes | None) -> Copies:
    """The inverse; none of what cannot be read. Each record still has to be compared with its own
    sha256.
    """
    with suppress(zlib.error, ValueError, TypeError, AttributeError, RecursionError):
        texts = json.loads(zlib.decompress(packed or b""))
        return {key: (mark, text.encode("latin-1")) for key, (mark, text) in texts.items()}
    return {}
