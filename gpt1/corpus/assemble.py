"""From texts to books: which texts are one book and which partition it is in, the texts of one
archive written by partition, the books of a partition put together, and what was skipped.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import pyarrow as pa

from gpt1.corpus.discover import without_suffix
from gpt1.corpus.document import (
    LEFT_OUT,
    MIB,
    Document,
    Place,
    SkippedFile,
    TextOrigin,
    UnreadableFileError,
)
from gpt1.errors import UserError

Naming = Callable[[str], tuple[str, str | None]]


class BookKey(NamedTuple):
    """A text's place: the id of its book, and the key by which a book's texts are put in
    order.
    """

    book: str
    order: str


def book_key(name: str, chapter_pattern: str | None) -> BookKey:
    """The place of a file or member by its name.

    What `chapter_pattern` matches in the name without suffix is cut off; texts left with the same
    name are chapters of one book, in the order of the pattern's first group (as a number where it
    is one).
    """
    path = PurePosixPath(without_suffix(name))
    found = re.search(chapter_pattern, path.name) if chapter_pattern else None
    if found is None:
        return BookKey(str(path), "0")
    rest = path.name[: found.start()] + path.name[found.end() :]
    label = found.group(1) or ""
    number = label.lstrip("0") or "0"
    # Numbers come before words, a number of fewer digits before one of more.
    order = f"1{len(number):06d}{number}" if label.isdecimal() else f"2{label}"
    return BookKey(str(path.parent / rest), order)


def title_and_author(name: str) -> tuple[str, str | None]:
    """Title and author by a name without its suffix: the file's name, and the folder it is in
    (`author/title`) if any.
    """
    path = PurePosixPath(name)
    title, author = (part.replace("_", " ").strip() for part in (path.name, path.parent.name))
    return title, author or None


def assign_to_book(
    document: Document, chapter_pattern: str | None, names: Naming = title_and_author
) -> Document:
    """The text with its book, title, author and order filled in by its name. What it says of
    itself stays.
    """
    if document.id:
        return document
    [origin] = document.origins
    key = book_key(document.source, chapter_pattern)
    inside = document.source.removeprefix(f"{origin.file}/") if origin.member else document.source
    title, author = names(book_key(inside, chapter_pattern).book)
    return replace(
        document, id=key.book, order=key.order, title=document.title or title,
        author=document.author or author,
    )


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


# ---------------------------------------------------------------------------------------------
# Texts by partition
#
# One Arrow file a container. Documents wait until there are `HELD` bytes of them; then those of
# each partition are sorted and written as a run of a few batches. A partition's runs can be merged
# in order with one batch of each in memory, so neither the writer nor a reader ever holds much,
# however large the archive. The index gives each partition's runs, and a digest of its documents:
# what is made of a partition depends on that digest and not on the rest of the archive.

HELD = 48 * MIB
BATCH = 4 * MIB
_TEXTS = ("id", "title", "author", "source", "form", "order")
_ORIGIN = ("file", "member", "encoding", "how", "sha256")
_NUMBERS = ("bytes", "replaced")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in (*_TEXTS, *_ORIGIN)]
    + [(name, pa.int64()) for name in _NUMBERS] + [("text", pa.large_string())]
)  # fmt: skip


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


# ---------------------------------------------------------------------------------------------
# Books


def assemble(
    runs: Sequence[Iterable[Document]], skip: Callable[[SkippedFile], None], max_document: int
) -> Iterator[Document]:
    """The books of sorted runs of texts, ordered by id, each with the origins of its texts.

    Of two texts for one place in one book the first by name stays. A book of chapters ends at
    `max_document` bytes.
    """
    merged = heapq.merge(*runs, key=sort_key)
    for _, texts in groupby(merged, key=lambda document: document.id):
        yield _join(_chosen(texts, skip, max_document))


def _chosen(
    texts: Iterable[Document], skip: Callable[[SkippedFile], None], max_document: int
) -> list[Document]:
    chosen: list[Document] = []
    size = 0
    for document in texts:
        [origin] = document.origins
        book = f"the book {document.id!r}"
        if chosen and document.order == chosen[-1].order:
            found = f"it has the same place in {book} as {chosen[-1].source}"
            fault = UnreadableFileError("same_name", found)
        elif chosen and size + origin.bytes > max_document:
            found = f"with it, `chapter_pattern` brings {book} to {size + origin.bytes} bytes"
            fault = UnreadableFileError("too_large", found, limit=max_document)
        else:
            size += origin.bytes
            chosen.append(document)
            continue
        skip(fault.at(Place(origin.file, origin.member)))
    return chosen


def _join(texts: Sequence[Document]) -> Document:
    first, last = texts[0], texts[-1]
    if len(texts) == 1:
        return first
    source = f"{first.source} … {last.source} ({len(texts)} files)"
    text = "\n\n".join(document.text for document in texts)
    origins = tuple(origin for document in texts for origin in document.origins)
    return replace(first, source=source, text=text, origins=origins)


# ---------------------------------------------------------------------------------------------
# What was skipped

MOST = 100


class SkippedFiles:
    """Writes records as they come.

    `on_error="stop"` raises at the first that is a fault (UserError).
    """

    def __init__(self, file: IO[bytes], on_error: str = "record") -> None:
        self._file, self._stop = file, on_error == "stop"
        self._same: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[str] = Counter()
        self.first: list[str] = []

    def add(self, skipped: SkippedFile) -> None:
        """Take one record."""
        if skipped.rule not in LEFT_OUT:
            if self._stop:
                raise UserError(skipped.sentence())
            if len(self.first) < 3:
                self.first.append(skipped.sentence())
        self.counts[skipped.rule] += 1
        self._same[skipped.file, skipped.rule] += 1
        if self._same[skipped.file, skipped.rule] <= MOST:
            self._write(asdict(skipped))

    def close(self) -> dict[str, Any]:
        """Write how many more there were than lines; the counts by rule, and the first records as
        sentences.
        """
        for (file, rule), number in sorted(self._same.items()):
            if more := max(0, number - MOST):
                found = f"{more} more of the same kind"
                self._write({"file": file, "rule": rule, "found": found, "more": more})
        return {"refused": dict(sorted(self.counts.items())), "first_refused": self.first}

    def _write(self, row: dict[str, object]) -> None:
        line = json.dumps(row, ensure_ascii=False, sort_keys=True)
        self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")
