"""Books in Parquet files, and other small tables written so that equal rows give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpt1.corpus.document import Document, first_line
from gpt1.errors import UserError

BOOKS = pa.schema(
    [
        ("id", pa.string()), ("title", pa.string()), ("author", pa.string()),
        ("source", pa.string()), ("form", pa.string()), ("text", pa.large_string()),
    ]
)
_ROWS_AT_ONCE = 8
_CHARACTERS_AT_ONCE = 16_000_000
_COMPRESSION: Mapping[str, Any] = {"compression": "zstd", "compression_level": 3}


def write_books(file: IO[bytes], books: Iterable[Document]) -> int:
    """Write the books in the order given; returns how many. Few are held in memory at a time."""
    return write_rows(file, BOOKS, (vars(book) for book in books))


def read_books(path: Path) -> Iterator[Document]:
    """The books of a part, in the order in which they were written.

    UserError when the file is damaged.
    """
    for row in read_rows(path):
        yield Document(**{name: row[name] for name in BOOKS.names})


def write_rows(file: IO[bytes], schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows under a schema, a few in a row group, fewer where they are large; returns how
    many.
    """
    written = 0
    with pq.ParquetWriter(file, schema, **_COMPRESSION) as writer:
        for some in _few(rows):
            writer.write_table(pa.Table.from_pylist(some, schema=schema))
            written += len(some)
    return written


def _few(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    some: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        some.append(row)
        size += len(row.get("text") or "")
        if len(some) == _ROWS_AT_ONCE or size > _CHARACTERS_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file written by `write_rows`. UserError when the file is damaged."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: not a complete Parquet file ({first_line(error)}); run the stage that made"
            " it again."
        ) from error


def write_table(file: IO[bytes], schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a small table whole."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), file, **_COMPRESSION)
