"""The pieces of one archive, written as they are read and found again by bucket.

One Arrow file a container. Pieces wait until there are `HELD` bytes of them; then each bucket's are
sorted and written as a run of a few batches. A bucket's runs can be merged in order with one batch
of each in memory, so neither the writer nor a reader ever holds much, however large the archive.
The index gives each bucket's runs, and a digest of its pieces: what is made of a bucket depends on
that digest and not on the rest of the archive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from gpt1.corpus.book import bucket
from gpt1.corpus.document import Piece
from gpt1.corpus.readers.limits import MIB

HELD = 48 * MIB
BATCH = 4 * MIB
_INTEGERS = {"size": pa.int64(), "replaced": pa.int64()}
_SCHEMA = pa.schema(
    [("order", pa.string())]
    + [
        (
            item.name,
            pa.large_string() if item.name == "text" else _INTEGERS.get(item.name, pa.string()),
        )
        for item in fields(Piece)
    ]
)  # fmt: skip
Ordered = tuple[tuple[str, str, str], Piece]
"""(book, order, name) and the piece: the order of all pieces of a corpus."""


def key(piece: Piece, order: str) -> tuple[str, str, str]:
    """The place of a piece among all pieces."""
    return piece.book or "", order, piece.name


@dataclass
class Bucket:
    """One bucket of a spool: runs of batches (first, number), and the digest of all its pieces."""

    runs: list[tuple[int, int]] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)


class SpoolWriter:
    """Takes pieces in any order. `close` writes what is left and gives the index, plain data."""

    def __init__(self, file: IO[bytes], buckets: int) -> None:
        self._writer = pa.ipc.new_file(
            file, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")
        )
        self._number = buckets
        self._buckets: dict[int, Bucket] = {}
        self._held: dict[int, list[Ordered]] = {}
        self._size = 0
        self._batches = 0

    def add(self, piece: Piece, order: str) -> None:
        """Take one piece; its book decides the bucket."""
        number = bucket(piece.book or "", self._number)
        self._held.setdefault(number, []).append((key(piece, order), piece))
        self._size += piece.size + 1024
        if self._size > HELD:
            self._flush()

    def close(self) -> dict[str, dict[str, Any]]:
        """Bucket to its `runs` and `digest`."""
        self._flush()
        self._writer.close()
        return {
            str(number): {
                "runs": [list(run) for run in found.runs],
                "digest": found.digest.hexdigest(),
            }
            for number, found in sorted(self._buckets.items())
        }

    def _flush(self) -> None:
        for number in sorted(self._held):
            ordered = sorted(self._held[number], key=lambda item: item[0])
            found = self._buckets.setdefault(number, Bucket())
            first = self._batches
            for some in _batches(ordered):
                rows = [{"order": place[1], **vars(piece)} for place, piece in some]
                for row in rows:
                    about = [str(value) for name, value in row.items() if name != "text"]
                    found.digest.update(
                        "\0".join(
                            [*about, hashlib.sha256(row["text"].encode()).hexdigest(), "\n"]
                        ).encode()
                    )
                self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
                self._batches += 1
            found.runs.append((first, self._batches - first))
        self._held.clear()
        self._size = 0


def read_runs(path: Path, runs: Sequence[Sequence[int]]) -> list[Iterator[Ordered]]:
    """The runs of one bucket, each in order, read as they are asked for."""
    return [_read_run(path, first, number) for first, number in runs]


def _read_run(path: Path, first: int, number: int) -> Iterator[Ordered]:
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as opened:
        for index in range(first, first + number):
            for row in _rows(opened.get_batch(index)):
                order = row.pop("order")
                piece = Piece(**row)
                yield key(piece, order), piece


def _rows(batch: Any) -> Iterator[dict[str, Any]]:
    for index in range(batch.num_rows):
        yield {
            str(name): column[index].as_py()
            for name, column in zip(_SCHEMA.names, batch.columns, strict=True)
        }


def _batches(ordered: Sequence[Ordered]) -> Iterator[list[Ordered]]:
    some: list[Ordered] = []
    size = 0
    for item in ordered:
        if some and size + item[1].size > BATCH:
            yield some
            some, size = [], 0
        some.append(item)
        size += item[1].size
    if some:
        yield some


Index = Mapping[str, Mapping[str, Any]]
