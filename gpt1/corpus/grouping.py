"""Which files are one book."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import PurePosixPath

from gpt1.corpus.book import BookFiles
from gpt1.errors import UserError

Naming = Callable[[str], tuple[str, str | None]]


def group(names: Iterable[str], chapter_pattern: str | None, naming: Naming) -> list[BookFiles]:
    """The books that the files `names` (relative, with suffix) make up, ordered by id.

    What `chapter_pattern` matches in a file's name without suffix is cut off; files left with the same name are chapters of one
    book, in the order of the pattern's first group (as a number where it is one). `naming` gives title and author of a book's id.
    """
    pattern = re.compile(chapter_pattern) if chapter_pattern else None
    chapters: dict[str, list[tuple[tuple[int, int, str], str]]] = {}
    for name in names:
        book, order = _book_of(name, pattern)
        chapters.setdefault(book, []).append((order, name))
    books = []
    for book in sorted(chapters):
        ordered = sorted(chapters[book])
        _refuse_doubles(book, ordered)
        title, author = naming(book)
        books.append(BookFiles(book, title, author, tuple(name for _, name in ordered)))
    return books


def folder_naming(book: str) -> tuple[str, str | None]:
    """Title and author of a book in a user's folder: the file's name, and the folder it lies in (`author/title.txt`) if any."""
    path = PurePosixPath(book)
    author = path.parent.name or None
    return _spaced(path.name), _spaced(author) if author else None


def _book_of(name: str, pattern: re.Pattern[str] | None) -> tuple[str, tuple[int, int, str]]:
    path = PurePosixPath(name).with_suffix("")
    found = pattern.search(path.name) if pattern else None
    if found is None:
        return str(path), (0, 0, "")
    rest = path.name[: found.start()] + path.name[found.end() :]
    label = found.group(1) or ""
    order = (1, int(label), "") if label.isdecimal() else (2, 0, label)
    return str(path.with_name(rest) if rest else path.parent), order


def _refuse_doubles(book: str, ordered: list[tuple[tuple[int, int, str], str]]) -> None:
    for (order, name), (next_order, next_name) in pairwise(ordered):
        if order == next_order:
            raise UserError(
                f"{name} and {next_name} would both be the same part of the book {book!r}; "
                "expected one file for each. Rename one, or mend `chapter_pattern`."
            )


def _spaced(name: str) -> str:
    return name.replace("_", " ").strip()
