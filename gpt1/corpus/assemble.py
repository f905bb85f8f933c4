"""Which texts are one book, and the texts of one partition, from everywhere, put together to
books.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import PurePosixPath
from typing import NamedTuple

from gpt1.corpus.discover import without_suffix
from gpt1.corpus.document import Document, Place, SkippedFile, UnreadableFileError
from gpt1.corpus.partition import sort_key

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
