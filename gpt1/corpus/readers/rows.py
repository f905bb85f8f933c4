"""Rows with a text column, from Parquet or JSON lines: one document a row, or one sentence a row.

The hub's `bookcorpus` is 74,004,228 rows of one sentence without a column that says which book a
row is from (docs/explanation/corpus.md). Such rows become stretches of a fixed number, each a
`Book(form="sentences")`. Lost for good are book boundaries, authors, titles, paragraphs and
chapters: windows run from book to book, no whole book can be held out, copies of books are not
found as such.

`auto`: sentences when none of the first 1,000 rows has an id, a title, an author or a line break,
and half of them are shorter than 300 characters. A file of fewer than 100 rows is documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, islice
from pathlib import PurePosixPath
from statistics import median

from gpt1.corpus.document import Found, Piece, Refused, RefusedError
from gpt1.corpus.readers.forms import without_suffix
from gpt1.corpus.readers.inflate import too_large
from gpt1.corpus.readers.limits import MIB, Reading
from gpt1.corpus.readers.text import check_text

_PEEKED, _FEWEST, _SENTENCE = 1_000, 100, 300
_PEEKED_SIZE = 8 * MIB
LOST = "book boundaries, titles, authors, chapters and paragraphs"


@dataclass(frozen=True)
class Row:
    """One row: its number from 0, its text, and what else it says."""

    number: int
    text: str | None
    id: str | None = None
    title: str | None = None
    author: str | None = None


def read_rows(
    rows: Iterable[Row | Refused], name: str, file: str, member: str | None, encoding: str,
    reading: Reading,
) -> Found:
    """The pieces that rows make, by the setting `rows` or by what the first of them look like."""
    rows = iter(rows)
    first = _peek(rows) if reading.rows == "auto" else []
    alike = reading.rows == "sentences" or (reading.rows == "auto" and _sentences(first))
    template = Piece(name, name, file, member, "", encoding, "as the format says", 0, "")
    made = _stretches if alike else _documents
    yield from made(chain(first, rows), template, reading)


def _peek(rows: Iterator[Row | Refused]) -> list[Row | Refused]:
    first: list[Row | Refused] = []
    size = 0
    for row in islice(rows, _PEEKED):
        first.append(row)
        size += len(row.text or "") if isinstance(row, Row) else 0
        if size > _PEEKED_SIZE:
            break
    return first


def _sentences(first: list[Row | Refused]) -> bool:
    rows = [row for row in first if isinstance(row, Row)]
    texts = [row.text for row in rows if row.text]
    if (
        len(texts) < _FEWEST
        or any(row.id or row.title or row.author for row in rows)
        or any("\n" in text for text in texts)
    ):
        return False
    return median(map(len, texts)) < _SENTENCE


def _documents(rows: Iterable[Row | Refused], template: Piece, reading: Reading) -> Found:
    for row in rows:
        if isinstance(row, Refused):
            yield row
            continue
        try:
            data = _checked(row.text or "", reading)
        except RefusedError as error:
            yield error.at(template.file, row_place(template.member, row.number))
            continue
        label = row.id or f"row-{row.number:09d}"
        yield replace(
            template, name=f"{template.name}#{row.number:012d}", text=row.text or "",
            size=len(data), sha256=sha256(data).hexdigest(), book=f"{template.name}/{label}",
            title=row.title or label, author=row.author,
        )  # fmt: skip


def _stretches(rows: Iterable[Row | Refused], template: Piece, reading: Reading) -> Found:
    """A stretch holds the rows whose numbers lie between two multiples of the setting, whatever
    rows are refused.
    """
    held: list[str] = []
    numbers: list[int] = []
    size = 0
    for row in rows:
        if isinstance(row, Refused):
            yield row
            continue
        text = " ".join((row.text or "").split())
        if not text:
            continue
        try:
            _checked(text, reading)
        except RefusedError as error:
            yield error.at(template.file, row_place(template.member, row.number))
            continue
        size += len(text)
        if held and (
            row.number // reading.stretch != numbers[0] // reading.stretch
            or size > reading.limits.document // 4
        ):
            yield _stretch(held, numbers, template)
            held, numbers, size = [], [], len(text)
        held.append(text)
        numbers.append(row.number)
    if held:
        yield _stretch(held, numbers, template)


def _stretch(held: list[str], numbers: list[int], template: Piece) -> Piece:
    text = "\n".join(held)
    data = text.encode()
    stem = PurePosixPath(without_suffix(template.name)).name
    return replace(
        template, name=f"{template.name}#{numbers[0]:012d}", text=text, size=len(data),
        sha256=sha256(data).hexdigest(), book=f"{template.name}/rows-{numbers[0]:012d}",
        title=f"{stem}, rows {numbers[0]} to {numbers[-1]}", form="sentences",
    )  # fmt: skip


def row_place(member: str | None, number: int) -> str:
    """`row 7`, with the member in front where there is one."""
    return f"{member}, row {number}" if member else f"row {number}"


def _checked(text: str, reading: Reading) -> bytes:
    if len(text) > reading.limits.document:
        raise too_large(reading.limits.document)
    check_text(text, reading)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RefusedError(
            "undecodable", f"character {error.start} is half of a surrogate pair",
            "text that UTF-8 can encode", "Fix the row.",
        ) from error
