"""The pieces of one bucket, from everywhere, put together to books."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from gpt1.corpus.book import Book
from gpt1.corpus.document import Piece, Refused
from gpt1.corpus.partition import Ordered

Refuse = Callable[[Refused], None]


def gather(
    runs: Sequence[Iterable[Ordered]], refuse: Refuse, largest: int
) -> Iterator[tuple[Book, dict[str, Any]]]:
    """The books of sorted runs of pieces, ordered by id, each with the record of where its text
    came from.

    Of two pieces for one place in one book the first by name stays. A book of chapters ends at
    `largest` bytes.
    """
    merged = heapq.merge(*runs, key=lambda item: item[0])
    for book, items in groupby(merged, key=lambda item: item[0][0]):
        pieces = _chosen(items, refuse, largest)
        yield _book(book, pieces), _record(book, pieces)


def _chosen(items: Iterable[Ordered], refuse: Refuse, largest: int) -> list[Piece]:
    pieces: list[Piece] = []
    before, size = "", 0
    for (book, order, _), piece in items:
        if pieces and order == before:
            found = f"it has the same place in the book {book!r} as {pieces[-1].name}"
            refuse(
                Refused(
                    piece.file, piece.member, "same_name", found, "one text per place",
                    "Rename it if it is a different text.",
                )
            )
            continue
        size += piece.size
        if pieces and size > largest:
            found = f"it would bring the book {book!r} to {size} bytes"
            refuse(
                Refused(
                    piece.file, piece.member, "too_large", found, f"at most {largest}",
                    "Fix `chapter_pattern`.",
                )
            )
            size -= piece.size
            continue
        pieces.append(piece)
        before = order
    return pieces


def _book(book: str, pieces: Sequence[Piece]) -> Book:
    first, last = pieces[0], pieces[-1]
    source = first.name if len(pieces) == 1 else f"{first.name} … {last.name} ({len(pieces)} files)"
    text = first.text if len(pieces) == 1 else "\n\n".join(piece.text for piece in pieces)
    return Book(book, first.title or book, first.author, source, text, first.form)


def _record(book: str, pieces: Sequence[Piece]) -> dict[str, Any]:
    files = []
    for piece in pieces:
        about = {
            "file": piece.file, "member": piece.member, "encoding": piece.encoding,
            "how": piece.how, "bytes": piece.size, "sha256": piece.sha256,
        }  # fmt: skip
        files.append({**about, "replaced": piece.replaced} if piece.replaced else about)
    return {
        "book": book, "title": pieces[0].title, "author": pieces[0].author, "form": pieces[0].form,
        "files": files,
    }
