"""A Parquet file with a text column, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gpt1.corpus.document import Found, Refused, RefusedError
from gpt1.corpus.readers.inflate import Metered, damaged
from gpt1.corpus.readers.limits import MIB, Reading
from gpt1.corpus.readers.rows import Row, read_rows, row_place
from gpt1.corpus.readers.text import no_utf8

_AT_ONCE = 4 * MIB  # bytes of text
_MOST_ROWS = 4096
_ABOUT = ("id", "title", "author")


def read_parquet(raw: Metered, file: str, reading: Reading) -> Found:
    """The books of a Parquet file. What was read before damage is kept."""
    yield from read_rows(_rows(raw, file, reading), file, file, None, "utf-8", reading)


def _rows(raw: Metered, file: str, reading: Reading) -> Iterator[Row | Refused]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = reading.text_column
    try:
        whole = pq.ParquetFile(raw)
        refusal = _fault(whole.schema_arrow, column)
        if refusal is not None:
            yield refusal.at(file)
            return
        # As a dictionary, a value that stands in a million rows is held once: repeated text cannot
        # fill the memory.
        with pq.ParquetFile(
            raw, metadata=whole.metadata, read_dictionary=[column], buffer_size=MIB
        ) as opened:
            about = [
                name for name in _ABOUT if name in opened.schema_arrow.names and name != column
            ]
            number = 0
            for batch in opened.iter_batches(
                batch_size=_rows_at_once(opened.metadata, column), columns=[column, *about]
            ):
                yield from _of_batch(batch, number, about, file)
                number += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        yield damaged(str(error)).at(file)


def _fault(schema: Any, column: str) -> RefusedError | None:
    import pyarrow.types as kinds

    if column not in schema.names:
        found = f"its columns are {', '.join(schema.names[:10])}"
        return RefusedError(
            "no_text_column", found, f"a column {column!r}",
            "Set `text_column` to the column with the text.",
        )
    kind = schema.field(column).type
    if kinds.is_dictionary(kind):
        kind = kind.value_type
    if not (kinds.is_string(kind) or kinds.is_large_string(kind)):
        return RefusedError(
            "no_text_column", f"column {column!r} holds {kind}", "strings",
            "Set `text_column` to the column with the text.",
        )
    return None


def _rows_at_once(metadata: Any, column: str) -> int:
    """As many rows as hold about `_AT_ONCE` bytes of text in the row group with the longest
    ones.
    """
    most = 1
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema == column and group.num_rows:
                most = max(most, chunk.total_uncompressed_size // group.num_rows)
    return max(1, min(_MOST_ROWS, _AT_ONCE // most))


def _of_batch(batch: Any, number: int, about: Sequence[str], file: str) -> Iterator[Row | Refused]:
    import pyarrow as pa

    texts = batch.column(0)
    values = [_decoded(value) for value in texts.dictionary.cast(pa.large_binary()).to_pylist()]
    places = texts.indices.to_pylist()
    others = {name: _values(batch.column(name)) for name in about}
    for offset, place in enumerate(places):
        text = None if place is None else values[place]
        if isinstance(text, RefusedError):
            yield text.at(file, row_place(None, number + offset))
            continue
        said = {name: _words(column[offset]) for name, column in others.items()}
        yield Row(number + offset, text, **said)


def _decoded(value: bytes | None) -> str | RefusedError | None:
    """A text as the file has it: whoever wrote it need not have looked whether it is UTF-8."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        return no_utf8(value or b"", error)


def _values(column: Any) -> list[Any]:
    """The values of a column beside the text; bytes of a string that are no UTF-8 are written as
    escapes.
    """
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return list(column.to_pylist())
    found = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode(errors="backslashreplace") for value in found]


def _words(value: Any) -> str | None:
    return (" ".join(str(value).split()) or None) if isinstance(value, str | int | float) else None
