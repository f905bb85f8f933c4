"""Finding, in a store, what a shard's ids were made from: the records of shard, vocabulary,
split, clean and ingest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from pipeline.store.base import Store
from pipeline.store.record import ArtifactRecord
from pipeline.store.snapshot import StoreSnapshot
from stages.contract import Artifact

_PARTS = "shard.parts"


def store_of(file: Path) -> Path:
    """The store that a shard's file lies in. UserError when it lies in none."""
    for folder in file.resolve().parents:
        if folder.name == _PARTS:
            return folder.parent
    raise UserError(
        f"{file}: not in a store (no folder {_PARTS} above it); give a file below STORE/{_PARTS},"
        " or use --store"
    )


@dataclass(frozen=True)
class Origin:
    """The artifacts behind one run of the shard stage."""

    store: Store
    shard: Artifact
    vocabulary: Artifact
    split: Artifact
    clean: Artifact
    ingest: Artifact | None

    @staticmethod
    def of(store: Store, record: ArtifactRecord) -> Origin:
        """What the record of a shard stage leads to. UserError for an artifact that is gone."""
        found = {
            kind: input_record(store, record, kind) for kind in ("vocabulary", "split", "clean")
        }
        ingest = None
        if found["clean"].identity.get("inputs", {}).get("ingest"):
            ingest = input_record(store, found["clean"], "ingest").artifact()
        return Origin(
            store, record.artifact(), found["vocabulary"].artifact(), found["split"].artifact(),
            found["clean"].artifact(), ingest,
        )  # fmt: skip


def record_with(store: Store, file: Path) -> tuple[ArtifactRecord, str]:
    """The newest record of a shard stage that lists the file, and the file's name there.

    UserError when none does.
    """
    wanted = file.resolve()
    records = StoreSnapshot(store).records("shard")
    for record in sorted(records, key=lambda record: record.finished, reverse=True):
        for name, entry in record.files.items():
            if (store.root / entry.key).resolve() == wanted:
                return record, name
    raise UserError(
        f"{file}: no finished shard stage in {store.where} lists this file; run `gpt1 run shard`"
    )


def input_record(store: Store, record: ArtifactRecord, kind: str) -> ArtifactRecord:
    """The record of the input of that kind. UserError when it is gone from the store."""
    prints = record.identity.get("inputs", {}).get(kind, [])
    found = store.record(kind, prints[0]) if prints else None
    if found is None:
        raise UserError(
            f"{store.where}: the {kind} input of {record.cell} is no longer in the store; rerun it"
        )
    return found


def record_of_book(
    store: Store, artifact: Artifact | None, part: str, book: str
) -> dict[str, Any] | None:
    """The line about a book in the `records/` of clean or ingest; None where that stage keeps no
    such line.
    """
    if artifact is None:
        return None
    first = [file for file in artifact.under("records/") if Path(file.name).stem == part]
    for file in [*first, *(file for file in artifact.under("records/") if file not in first)]:
        with store.fetch(file).open(encoding="utf-8") as lines:
            for line in lines:
                row: dict[str, Any] = json.loads(line)
                if book in (row.get("book"), row.get("id")):
                    return row
    return None
