"""A book, and the part it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

_SLICE = 1 << 20


@dataclass(frozen=True)
class Book:
    """One book. `source` says which file or files it came from, `author` is None where nobody says.

    `form` is `book`, or `sentences` for a stretch of a data set of one sentence a line, which has
    no book boundaries.
    """

    id: str
    title: str
    author: str | None
    source: str
    text: str
    form: str = "book"


def bucket(book_id: str, parts: int) -> int:
    """The part a book belongs to: a stable hash of its id, so that one added book changes one
    part.
    """
    return int.from_bytes(sha256(book_id.encode()).digest()[:8], "big") % parts


def part_name(number: int) -> str:
    """`part-0007`."""
    return f"part-{number:04d}"


def words_in(text: str) -> int:
    """The number of words (runs without white space), counted a megabyte at a time so that few
    of them exist at once.
    """
    words = 0
    for start in range(0, len(text), _SLICE):
        some = text[start : start + _SLICE]
        words += len(some.split())
        # A word across the cut was counted on either side of it.
        words -= start > 0 and not text[start - 1].isspace() and not some[0].isspace()
    return words
