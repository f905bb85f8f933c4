"""What a source yields: the text of one file, member or row, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from gpt1.terminal import one_line

LEFT_OUT = frozenset({"unknown_form"})
"""Rules for what is no book and not meant to be one: recorded and counted, but no fault of the
corpus.
"""


@dataclass(frozen=True)
class Piece:
    """A text on its way into a book.

    `name` is its name in the corpus (`books.zip/author/title.txt`), `inside` the part of it that
    speaks of author and title. `book`, `title` and `author` are None where the name alone decides
    them. `size` (bytes) and `sha256` are those of the undecoded text.
    """

    name: str
    inside: str
    file: str
    member: str | None
    text: str = field(repr=False)
    encoding: str
    how: str
    size: int
    sha256: str
    replaced: int = 0
    book: str | None = None
    title: str | None = None
    author: str | None = None
    form: str = "book"


@dataclass(frozen=True)
class Refused:
    """Something that gave no text: where it lies, the rule it broke, what was found, what was
    expected and what to do.
    """

    file: str
    member: str | None
    rule: str
    found: str
    expected: str
    do: str

    def sentence(self) -> str:
        """All of it on one line."""
        where = f"{self.file}, {self.member}" if self.member else self.file
        return f"{where}: {self.found}; expected {self.expected}. {self.do} ({self.rule})"


class RefusedError(Exception):
    """A text that cannot be had; the reader that knows the file and member makes a `Refused` of
    it.
    """

    def __init__(self, rule: str, found: str, expected: str, do: str) -> None:
        super().__init__(found := one_line(found))
        self.rule, self.found, self.expected, self.do = rule, found, expected, do

    def at(self, file: str, member: str | None = None) -> Refused:
        """The record of it."""
        return Refused(file, member, self.rule, self.found, self.expected, self.do)


Found = Iterator[Piece | Refused]


def naming(inside: str) -> tuple[str, str | None]:
    """Title and author by a name without its suffix: the file's name, and the folder it lies in
    (`author/title`) if any.
    """
    path = PurePosixPath(inside)
    author = path.parent.name
    return _spaced(path.name), _spaced(author) or None


def _spaced(name: str) -> str:
    return name.replace("_", " ").strip()
