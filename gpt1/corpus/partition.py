"""The documents of one archive, written as they are read and found again by partition.

One Arrow file a container. Documents wait until there are `HELD` bytes of them; then those of each
partition are sorted and written as a run of a few batches. A partition's runs can be merged in
order with one batch of each in memory, so neither the writer nor a reader ever holds much, however
large the archive. The index gives each partition's runs, and a digest of its documents: what is
made of a partition depends on that digest and not on the rest of the archive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from gpt1.corpus.document import MIB, Document, TextOrigin

HELD = 48 * MIB
BATCH = 4 * MIB
_TEXTS = ("id", "title", "author", "source", "form", "order")
_ORIGIN = ("file", "member", "encoding", "how", "sha256")
_NUMBERS = ("bytes", "replaced")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in (*_TEXTS, *_ORIGIN)]
    + [(name, pa.int64()) for name in _NUMBERS] + [("text", pa.large_string())]
)  # fmt: skip


class SortKey(NamedTuple):
    """The order of all texts of a corpus: by book, place in the book, and name."""

    book: str
    order: str
    source: str


def sort_key(document: Document) -> SortKey:
    """The place of a text among all texts."""
    return SortKey(document.id, document.order, document.source)


def partition_of(book: str, partitions: int) -> int:
    """The partition a book belongs to: a stable hash of its id, so that one added book changes
    one partition.
    """
    return int.from_bytes(hashlib.sha256(book.encode()).digest()[:8], "big") % partitions


def part_name(number: int) -> str:
    """`part-0007`."""
    return f"part-{number:04d}"


@dataclass
class _Partition:
    """Runs of batches (first, number), and the digest of all documents in them."""

    runs: list[tuple[int, int]] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)


class SpoolWriter:
    """Takes texts of one origin in any order. `close` writes what is left and gives the index,
    plain data.
    """

    def __init__(self, file: IO[bytes], partitions: int) -> None:
        self._writer = pa.ipc.new_file(
            file, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")
        )
        self._number = partitions
        self._partitions: dict[int, _Partition] = {}
        self._held: dict[int, list[Document]] = {}
        self._size = 0
        self._batches = 0

    def add(self, document: Document) -> None:
        """Take one text; its book decides the partition."""
        self._held.setdefault(partition_of(document.id, self._number), []).append(document)
        self._size += document.origins[0].bytes + 1024
        if self._size > HELD:
            self._flush()

    def close(self) -> dict[str, dict[str, Any]]:
        """Partition to its `runs` and `digest`."""
        self._flush()
        self._writer.close()
        return {
            str(number): {"runs": [*map(list, found.runs)], "digest": found.digest.hexdigest()}
            for number, found in sorted(self._partitions.items())
        }

    def _flush(self) -> None:
        for number in sorted(self._held):
            found = self._partitions.setdefault(number, _Partition())
            first = self._batches
            for some in _batches(sorted(self._held[number], key=sort_key)):
                rows = [{**vars(one), **asdict(one.origins[0])} for one in some]
                for row in rows:
                    about = [str(row[name]) for name in _SCHEMA.names if name != "text"]
                    about.append(hashlib.sha256(row["text"].encode()).hexdigest())
                    found.digest.update("\0".join([*about, "\n"]).encode())
                self._writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
                self._batches += 1
            found.runs.append((first, self._batches - first))
        self._held.clear()
        self._size = 0


def read_run(path: Path, first: int, number: int) -> Iterator[Document]:
    """One run of a partition, in order, read as it is asked for."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as opened:
        for index in range(first, first + number):
            batch = opened.get_batch(index)
            for at in range(batch.num_rows):
                row = {name: batch.column(name)[at].as_py() for name in _SCHEMA.names}
                origin = TextOrigin(**{name: row.pop(name) for name in (*_ORIGIN, *_NUMBERS)})
                yield Document(**row, origins=(origin,))


def _batches(documents: Sequence[Document]) -> Iterator[list[Document]]:
    some: list[Document] = []
    size = 0
    for document in documents:
        if some and size + document.origins[0].bytes > BATCH:
            yield some
            some, size = [], 0
        some.append(document)
        size += document.origins[0].bytes
    if some:
        yield some
