"""Rows with a text column, from Parquet or JSON lines: one document a row, or one sentence a row.

The hub's `bookcorpus` is 74,004,228 rows of one sentence without a column that says which book a
row is from (docs/explanation/corpus.md). Such rows become documents of a fixed number of sentences,
each a `Document(form="sentences")`. Lost for good are book boundaries, authors, titles, paragraphs
and chapters: windows run from book to book, no whole book can be held out, copies of books are not
found as such.

`auto`: sentences when none of the first 1,000 rows has an id, a title, an author or a line break,
and half of them are shorter than 300 characters. A file of fewer than 100 rows is documents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice
from pathlib import PurePosixPath
from statistics import median
from typing import Any

from gpt1.corpus.discover import without_suffix
from gpt1.corpus.document import (
    MIB,
    MOST_SAID,
    Document,
    Place,
    Read,
    ReadingConfig,
    SkippedFile,
    TextOrigin,
    UnreadableFileError,
    damaged,
    first_line,
    too_large,
)
from gpt1.corpus.readers.archives import CountingReader, UnpackedStream, check_size
from gpt1.corpus.readers.text import check_text

_PEEKED, _FEWEST, _SENTENCE = 1_000, 100, 300
_PEEKED_SIZE = 8 * MIB
_AT_ONCE, _MOST_ROWS = 4 * MIB, 4096  # bytes and rows of a batch
_ABOUT = ("id", "title", "author")


@dataclass(frozen=True)
class Row:
    """One row: its number from 0, its text, and what else it says."""

    number: int
    text: str | None
    id: str | None = None
    title: str | None = None
    author: str | None = None


Rows = Iterator[Row | SkippedFile]


def read_rows(rows: Rows, place: Place, config: ReadingConfig) -> Read:
    """The documents that rows make, by the setting `rows` or by what the first of them look
    like.
    """
    first = list(_peek(rows)) if config.rows == "auto" else []
    if config.rows == "sentences" or _are_sentences(first):
        yield from _join_sentences(chain(first, rows), place, config)
    else:
        yield from _one_a_row(chain(first, rows), place, config)


def _peek(rows: Rows) -> Rows:
    size = 0
    for row in islice(rows, _PEEKED):
        yield row
        size += len(row.text or "") if isinstance(row, Row) else 0
        if size > _PEEKED_SIZE:
            break


def _are_sentences(first: Sequence[Row | SkippedFile]) -> bool:
    rows = [row for row in first if isinstance(row, Row)]
    texts = [row.text for row in rows if row.text]
    says_more = any(row.id or row.title or row.author or "\n" in (row.text or "") for row in rows)
    return len(texts) >= _FEWEST and not says_more and median(map(len, texts)) < _SENTENCE


def _one_a_row(rows: Iterable[Row | SkippedFile], place: Place, config: ReadingConfig) -> Read:
    for row in rows:
        if isinstance(row, SkippedFile):
            yield row
            continue
        label = row.id or ""
        if not label or len(label) == MOST_SAID:  # an id that was cut names no row
            label = f"row-{row.number:09d}"
        try:
            text = row.text or ""
            yield _document(text, config, place, label, row.number, row.title or label, row.author)
        except UnreadableFileError as error:
            yield error.at(place.row(row.number))


def _join_sentences(
    rows: Iterable[Row | SkippedFile], place: Place, config: ReadingConfig
) -> Read:
    """A document holds the rows whose numbers are between two multiples of the setting, whatever
    rows are skipped.
    """
    held: list[tuple[int, str]] = []
    size, every = 0, config.sentences_per_document

    def joined() -> Document:
        first, text = held[0][0], "\n".join(sentence for _, sentence in held)
        stem = PurePosixPath(without_suffix(place.source)).name
        title = f"{stem}, rows {first} to {held[-1][0]}"
        label = f"rows-{first:012d}"
        return _document(text, config, place, label, first, title, None, "sentences")

    for row in rows:
        if isinstance(row, SkippedFile):
            yield row
            continue
        text = " ".join((row.text or "").split())
        if not text:
            continue
        try:
            _check(text, config)
        except UnreadableFileError as error:
            yield error.at(place.row(row.number))
            continue
        size += len(text)
        is_other = held and row.number // every != held[0][0] // every
        if is_other or (held and size > config.max_document // 4):
            yield joined()
            held, size = [], len(text)
        held.append((row.number, text))
    if held:
        yield joined()


def _document(
    text: str, config: ReadingConfig, place: Place, label: str, number: int, title: str,
    author: str | None, form: str = "book",
) -> Document:
    """The document of one row, or of several joined. UnreadableFileError when it is no text."""
    data = _check(text, config)
    origin = TextOrigin(
        *place, "utf-8", "as the format says", len(data), sha256(data).hexdigest()
    )
    source = f"{place.source}#{number:012d}"
    return Document(
        f"{place.source}/{label}", title, author, source, text, form, source, (origin,)
    )


def _check(text: str, config: ReadingConfig) -> bytes:
    """The bytes of a text. UnreadableFileError when it is none, or too large."""
    if len(text) > config.max_document:
        raise too_large(config.max_document)
    check_text(text, config)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        found = f"character {error.start} is half of a surrogate pair"
        raise UnreadableFileError("undecodable", found) from error


def _no_utf8(data: bytes, error: UnicodeDecodeError) -> UnreadableFileError:
    found = f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8"
    return UnreadableFileError("invalid_utf8", found)


def _row(number: int, text: str | None, found: dict[str, Any], column: str) -> Row:
    about = {**found, column: None}
    return Row(number, text, *(_said(about.get(name)) for name in _ABOUT))


def _said(value: Any) -> str | None:
    """What a row says of its text, beside the text. Nobody's title is longer than a page."""
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    said = str(value)[: 4 * MOST_SAID].encode("utf-8", "backslashreplace").decode()
    return " ".join(said.split())[:MOST_SAID] or None


# ---------------------------------------------------------------------------------------------
# JSON lines


def json_rows(stream: UnpackedStream, place: Place, config: ReadingConfig) -> Rows:
    """The rows of a file of JSON lines. A bad line costs that line."""
    # Two bytes of JSON for one of text: as much as escapes make of prose.
    for number, line in enumerate(_lines(stream, 2 * config.max_document)):
        if line is not None and not line.strip():
            continue
        try:
            if line is None:
                raise too_large(config.max_document)
            yield _json_row(line, number, config.text_column)
        except UnreadableFileError as error:
            yield error.at(place.row(number))


def _json_row(line: bytes, number: int, column: str) -> Row:
    try:
        found = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError as error:
        raise _no_utf8(line, error) from error
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError("bad_row", f"not JSON ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise UnreadableFileError("no_text_column", "not an object", column=column)
    if column not in found:
        keys = ", ".join(key[:100] for key in sorted(found)[:10])
        what = f"an object with the keys {keys}"
        raise UnreadableFileError("no_text_column", what, column=column)
    if not isinstance(found[column], str):
        kind = type(found[column]).__name__
        raise UnreadableFileError("bad_row", f"{column!r} is of type {kind}")
    return _row(number, found[column], found, column)


def _lines(stream: UnpackedStream, limit: int) -> Iterator[bytes | None]:
    """The lines with their ends; None for one of more than `limit` bytes, of which no more than
    that is held.
    """
    rest = bytearray()
    too_long = False
    while data := stream.read(MIB):
        begin = 0
        while (end := data.find(b"\n", begin)) >= 0:
            rest += data[begin : end + 1]
            yield None if too_long or len(rest) > limit else bytes(rest)
            rest.clear()
            too_long = False
            begin = end + 1
        rest += data[begin:]
        if len(rest) > limit:
            too_long = True
            rest.clear()
    if rest or too_long:
        yield None if too_long else bytes(rest)


# ---------------------------------------------------------------------------------------------
# Parquet


def parquet_rows(raw: CountingReader, place: Place, config: ReadingConfig) -> Rows:
    """The rows of a Parquet file. Raises UnreadableFileError at damage, after the rows before it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = config.text_column
    try:
        # What pandas or Arrow have written about the types is not needed: all text is bytes here.
        whole = pq.ParquetFile(raw, pre_buffer=False)
        names = [column, *(name for name in _ABOUT if name != column)]
        kinds = {name: _kind(whole.schema_arrow, name) for name in names}
        texts = [name for name in names if kinds[name] == "text"]
        if column not in texts:
            raise _no_text_column(whole.schema_arrow, column)
        # As a dictionary, a value that is in a million rows is held once: repeated text cannot
        # fill the memory.
        with pq.ParquetFile(
            raw, metadata=whole.metadata, read_dictionary=texts, buffer_size=MIB, pre_buffer=False
        ) as opened:
            # Of the others no value is used, and some have none in Python: the year 100,000.
            chosen = texts + [name for name in names if kinds[name] == "number"]
            rows = _rows_at_once(opened.metadata, set(chosen))
            number = out = 0
            for batch in opened.iter_batches(rows, columns=chosen, use_threads=False):
                columns = [values_of(batch.column(name)) for name in chosen]
                for values in zip(*columns, strict=True):
                    found = dict(zip(chosen, values, strict=True))
                    row = _parquet_row(found, number, column, place)
                    out += len(row.text or "") if isinstance(row, Row) else 0
                    check_size(out, raw.size or raw.count, config)
                    yield row
                    number += 1
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(first_line(error)) from error


def _parquet_row(
    found: dict[str, Any], number: int, column: str, place: Place
) -> Row | SkippedFile:
    data = found[column]
    try:
        text = None if data is None else bytes(data).decode()
    except UnicodeDecodeError as error:  # whoever wrote it need not have looked
        return _no_utf8(data, error).at(place.row(number))
    return _row(number, text, found, column)


def _kind(schema: Any, name: str) -> str | None:
    """What the one column of that name holds: `text`, in any of Arrow's types for it or as bytes
    that may be text, `number`, or None for all else.
    """
    import pyarrow.types as kinds

    if schema.names.count(name) != 1:
        return None
    kind = schema.field(name).type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    kind = getattr(kind, "storage_type", kind)  # of an extension, such as arrow.json
    if kinds.is_integer(kind) or kinds.is_floating(kind):
        return "number"
    tests = (
        kinds.is_string, kinds.is_large_string, kinds.is_string_view,
        kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view,
    )  # fmt: skip
    return "text" if any(test(kind) for test in tests) else None


def _no_text_column(schema: Any, column: str) -> UnreadableFileError:
    number = schema.names.count(column)
    found = f"its columns are {', '.join(name[:100] for name in schema.names[:10])}"
    if number:
        found = f"{number} columns are called {column!r}"
    if number == 1:
        found = f"column {column!r} holds {schema.field(column).type}"
    return UnreadableFileError("no_text_column", found, column=column)


def _rows_at_once(metadata: Any, names: set[str]) -> int:
    """As many rows as hold about `_AT_ONCE` bytes in the row group with the longest ones."""
    most = 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        chunks = [group.column(place) for place in range(group.num_columns)]
        size = sum(
            chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in names
        )
        most = max(most, size // max(1, group.num_rows))
    return max(1, min(_MOST_ROWS, _AT_ONCE // most))


def values_of(column: Any) -> list[Any]:
    """The values of a column; text as its bytes, each different one of a dictionary held once."""
    import pyarrow as pa

    column = getattr(column, "storage", column)
    if isinstance(column, pa.DictionaryArray):
        values, places = values_of(column.dictionary), column.indices.to_pylist()
        if not all(place is None or 0 <= place < len(values) for place in places):
            raise damaged("an index beyond its dictionary")
        return [None if place is None else values[place] for place in places]
    if pa.types.is_string(column.type):
        column = column.cast(pa.large_binary())
    return list(column.to_pylist())
