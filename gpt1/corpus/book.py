"""A book, and the files it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True)
class Book:
    """One book. `source` says which file or files it came from, `author` is None where nobody says.

    `form` is `book`, or `sentences` for a stretch of a data set of one sentence a line, which has no book boundaries.
    """

    id: str
    title: str
    author: str | None
    source: str
    text: str
    form: str = "book"


@dataclass(frozen=True)
class BookFiles:
    """A book still lying in files: their names, in the order in which their texts follow one another."""

    id: str
    title: str
    author: str | None
    names: tuple[str, ...]

    @property
    def source(self) -> str:
        """The file's name, or the first and last of several."""
        if len(self.names) == 1:
            return self.names[0]
        return f"{self.names[0]} … {self.names[-1]} ({len(self.names)} files)"


def bucket(book_id: str, parts: int) -> int:
    """The part a book belongs to: a stable hash of its id, so that one added book changes one part."""
    return int.from_bytes(sha256(book_id.encode()).digest()[:8], "big") % parts


def part_name(number: int) -> str:
    """`part-0007`."""
    return f"part-{number:04d}"
