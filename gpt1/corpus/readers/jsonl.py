"""JSON lines: one object a row, read as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gpt1.corpus.document import Found, Refused, RefusedError
from gpt1.corpus.readers.inflate import too_large
from gpt1.corpus.readers.limits import Reading
from gpt1.corpus.readers.rows import Row, read_rows, row_place
from gpt1.corpus.readers.text import no_utf8

_CHUNK = 1 << 20


def read_jsonl(stream: Any, name: str, file: str, member: str | None, reading: Reading) -> Found:
    """The books of a file of JSON lines. A bad line costs that line."""
    yield from read_rows(_rows(stream, file, member, reading), name, file, member, "utf-8", reading)


def _rows(stream: Any, file: str, member: str | None, reading: Reading) -> Iterator[Row | Refused]:
    # Two bytes of JSON for one of text: as much as escapes make of prose.
    number = 0
    lines = _lines(stream, 2 * reading.limits.document)
    while True:
        try:
            line = next(lines, b"")
            if line == b"":
                return
            if line is None or line.strip():
                yield _row(line, number, reading)
        except RefusedError as error:
            if error.rule in ("damaged", "bomb"):
                yield error.at(file, member)
                return
            yield error.at(file, row_place(member, number))
        number += 1


def _row(line: bytes | None, number: int, reading: Reading) -> Row:
    column = reading.text_column
    if line is None:
        raise too_large(reading.limits.document)
    try:
        found = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError as error:
        raise no_utf8(line, error) from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(
            "bad_row", f"not JSON ({error})", "one JSON object per line", "Fix the line."
        ) from error
    if not isinstance(found, dict) or column not in found:
        keys = (
            f"an object with the keys {', '.join(sorted(found)[:10])}"
            if isinstance(found, dict)
            else "not an object"
        )
        raise RefusedError(
            "no_text_column", keys, f"a key {column!r}",
            "Set `text_column` to the key with the text.",
        )
    if not isinstance(found[column], str):
        kind = type(found[column]).__name__
        raise RefusedError("bad_row", f"{column!r} is of type {kind}", "a string", "Fix the line.")
    title, author = _words(found.get("title")), _words(found.get("author"))
    return Row(number, found[column], _words(found.get("id")), title, author)


def _words(value: Any) -> str | None:
    if isinstance(value, bool | dict | list) or value is None:
        return None
    return " ".join(str(value).encode("utf-8", "backslashreplace").decode().split()) or None


def _lines(stream: Any, limit: int) -> Iterator[bytes | None]:
    """The lines with their ends; None for one of more than `limit` bytes, of which no more than
    that is held.
    """
    rest = bytearray()
    too_long = False
    while data := stream.read(_CHUNK):
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
