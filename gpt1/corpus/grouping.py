"""Which pieces are one book, and in which order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from gpt1.corpus.document import Piece, naming
from gpt1.corpus.readers.forms import without_suffix

Naming = Callable[[str], tuple[str, str | None]]


@dataclass(frozen=True)
class Shelf:
    """A piece's place: the id of its book, and the key by which a book's pieces are put in
    order.
    """

    book: str
    order: str


def shelf_of(name: str, chapter_pattern: str | None) -> Shelf:
    """The place of a file or member by its name.

    What `chapter_pattern` matches in the name without suffix is cut off; pieces left with the same
    name are chapters of one book, in the order of the pattern's first group (as a number where it
    is one).
    """
    path = PurePosixPath(without_suffix(name))
    found = re.search(chapter_pattern, path.name) if chapter_pattern else None
    if found is None:
        return Shelf(str(path), "0")
    rest = path.name[: found.start()] + path.name[found.end() :]
    label = found.group(1) or ""
    number = label.lstrip("0") or "0"
    # Numbers come before words, a number of fewer digits before one of more.
    order = f"1{len(number):06d}{number}" if label.isdecimal() else f"2{label}"
    return Shelf(str(path.with_name(rest) if rest else path.parent), order)


def placed(piece: Piece, chapter_pattern: str | None, names: Naming = naming) -> tuple[Piece, str]:
    """The piece with its book, title and author filled in, and its order.

    What the piece itself says of title and author stands.
    """
    if piece.book is not None:
        return replace(piece, title=piece.title or piece.book), piece.name
    shelf = shelf_of(piece.name, chapter_pattern)
    title, author = names(shelf_of(piece.inside, chapter_pattern).book)
    return (
        replace(piece, book=shelf.book, title=piece.title or title, author=piece.author or author),
        shelf.order,
    )
