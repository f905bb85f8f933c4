"""From texts to books: which texts are one book and which partition it is in, the texts of one
archive written by partition, the books of a partition put together, and what was skipped.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from gpt1.corpus.discover import without_suffix
from gpt1.corpus.document import (
    LEFT_OUT,
    MIB,
    Document,
    Place,
    SkippedFile,
    TextOrigin,
    UnreadableFileError,
    read_rows,
    write_rows,
)
from gpt1.errors import UserError

Naming = Callable[[str], tuple[str, str | None]]
_HELD = 48 * MIB
"""Bytes of texts of one archive that are held until they are written."""
MOST = 100
"""Records of one kind for one file that are written complete."""


class SortKey(NamedTuple):
    """The order of all texts of a corpus: by book, place in the book, and name."""

    book: str
    order: str
    source: str


def sort_key(document: Document) -> SortKey:
    """The place of a text among all texts."""
    return SortKey(document.id, document.order, document.source)


def sort_key_of(name: str, chapter_pattern: str | None) -> SortKey:
    """The place of a file or member by its name.

    What `chapter_pattern` matches in the name without suffix is cut off; texts left with the same
    name are chapters of one book, in the order of the pattern's first group (as a number where it
    is one). Where the pattern leaves nothing, the folder is the book; without a folder it is
    called `book`.
    """
    path = PurePosixPath(without_suffix(name))
    found = re.search(chapter_pattern, path.name) if chapter_pattern else None
    if found is None:
        return SortKey(str(path), "0", name)
    rest = path.name[: found.start()] + path.name[found.end() :]
    label = found.group(1) or ""
    number = label.lstrip("0") or "0"
    # Numbers come before words, a number of fewer digits before one of more.
    order = f"1{len(number):06d}{number}" if label.isdecimal() else f"2{label}"
    book = str(path.parent / rest)
    return SortKey(book if book != "." else "book", order, name)


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
    key = sort_key_of(document.source, chapter_pattern)
    inside = key.book.removeprefix(f"{origin.file}/") if origin.member else key.book
    # The chapters at the top of an archive are the book that the archive is named after.
    title, author = names(without_suffix(inside) if inside == origin.file else inside)
    return replace(
        document, id=key.book, order=key.order, title=document.title or title,
        author=document.author or author,
    )


def partition_of(book: str, partitions: int) -> int:
    """The partition a book belongs to: a stable hash of its id, so that one added book changes
    one partition.
    """
    return int.from_bytes(hashlib.sha256(book.encode()).digest()[:8], "big") % partitions


def part_name(number: int) -> str:
    """`part-0007`."""
    return f"part-{number:04d}"


# ---------------------------------------------------------------------------------------------
# The texts of one archive by partition
#
# Texts are held until there are `_HELD` bytes of them; then those of each partition are sorted and
# written as a run, a file of its own. The runs of a partition can be merged in order with a few
# texts of each in memory, so neither the writer nor a reader ever holds much, however large the
# archive; and what is made of a partition depends on its runs, not on the rest of the archive.


def write_runs(
    documents: Iterable[Document], partitions: int,
    create: Callable[[str], AbstractContextManager[IO[bytes]]],
) -> None:
    """Write texts of one origin, in any order, as `runs/part-0007/0000.parquet` and so on."""
    held: dict[int, list[Document]] = defaultdict(list)
    size = number = 0

    def write() -> None:
        for partition, some in sorted(held.items()):
            with create(f"runs/{part_name(partition)}/{number:04d}.parquet") as file:
                rows = map(_run_row, sorted(some, key=sort_key))
                write_rows(file, _run_schema(), rows, most_rows=4096, most_characters=4 * MIB)
        held.clear()

    for document in documents:
        held[partition_of(document.id, partitions)].append(document)
        size += document.origins[0].bytes + 1024
        if size > _HELD:
            write()
            size, number = 0, number + 1
    write()


def read_run(path: Path) -> Iterator[Document]:
    """The texts of a run, in order, read as they are asked for."""
    for row in read_rows(path):
        origin = TextOrigin(**row.pop("origin"))
        yield Document(**row, origins=(origin,))


def _run_schema() -> Any:
    import pyarrow as pa

    origin = [(name, pa.string()) for name in ("file", "member", "encoding", "how", "sha256")]
    origin += [(name, pa.int64()) for name in ("bytes", "replaced")]
    texts = [(name, pa.string()) for name in ("id", "title", "author", "source", "form", "order")]
    return pa.schema([*texts, ("origin", pa.struct(origin)), ("text", pa.large_string())])


def _run_row(document: Document) -> dict[str, Any]:
    return {**vars(document), "origin": vars(document.origins[0])}


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
        yield _join(list(_chosen(texts, skip, max_document)))


def _chosen(
    texts: Iterable[Document], skip: Callable[[SkippedFile], None], max_document: int
) -> Iterator[Document]:
    last, size = None, 0
    for document in texts:
        [origin] = document.origins
        book = f"the book {document.id!r}"
        if last and document.order == last.order:
            found = f"it has the same place in {book} as {last.source}"
            fault = UnreadableFileError("same_name", found)
        elif last and size + origin.bytes > max_document:
            found = f"with it, `chapter_pattern` brings {book} to {size + origin.bytes} bytes"
            fault = UnreadableFileError("too_large", found, limit=max_document)
        else:
            last, size = document, size + origin.bytes
            yield document
            continue
        skip(fault.at(Place(origin.file, origin.member)))


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


class SkippedFiles:
    """Writes records as they come, a line each: the first `MOST` of one kind in one file complete,
    the rest counted.

    `on_error="stop"` raises at the first that is a fault (UserError).
    """

    def __init__(self, file: IO[bytes], on_error: str = "record") -> None:
        self._file, self._stop = file, on_error == "stop"
        self._same: Counter[tuple[str, str]] = Counter()
        self._first: list[str] = []

    def add(self, skipped: SkippedFile) -> None:
        """Take one record."""
        if skipped.rule not in LEFT_OUT:
            if self._stop:
                raise UserError(skipped.sentence())
            if len(self._first) < 3:
                self._first.append(skipped.sentence())
        self._same[skipped.file, skipped.rule] += 1
        if self._same[skipped.file, skipped.rule] <= MOST:
            self._write(asdict(skipped))

    def close(self) -> dict[str, Any]:
        """Write how many more there were than lines; the counts by rule, and the first records as
        sentences.
        """
        counts: Counter[str] = Counter()
        for (file, rule), number in sorted(self._same.items()):
            counts[rule] += number
            if number > MOST:
                more = number - MOST
                found = f"{more} more of the same kind"
                self._write({"file": file, "rule": rule, "found": found, "more": more})
        return {"refused": dict(sorted(counts.items())), "first_refused": self._first}

    def _write(self, row: dict[str, object]) -> None:
        line = json.dumps(row, ensure_ascii=False, sort_keys=True)
        self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")
