"""The document index, books.parquet: where each book is in the shards."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from gpt1.errors import UserError

_SCHEMA = pa.schema(
    [
        ("book", pa.string()), ("title", pa.string()), ("author", pa.string()),
        ("source", pa.string()), ("part", pa.string()), ("set", pa.string()), ("start", pa.int64()),
        ("length", pa.int64()), ("sha256", pa.string()), ("cleaning", pa.string()),
    ]
)


@dataclass(frozen=True)
class DocumentSpan:
    """`length` ids from `start` in the file `<set>/<part>.arrow` are this book's.

    `sha256` is that of the ids' bytes, as they lie in the file: the book's content id, from which
    the order of training follows. `cleaning` names the file of the clean stage with the record of
    what was done to the book; None: not recorded.
    """

    book: str
    title: str
    author: str | None
    source: str
    part: str
    set: str
    start: int
    length: int
    sha256: str
    cleaning: str | None = None


def write_spans(file: IO[bytes], spans: Sequence[DocumentSpan]) -> None:
    """Write the table in the order given."""
    table = pa.Table.from_pylist([vars(span) for span in spans], schema=_SCHEMA)
    pq.write_table(table, file, compression="zstd", compression_level=3, write_page_checksum=True)


def read_spans(path: Path) -> Iterator[DocumentSpan]:
    """The rows of a table written by `write_spans`.

    UserError when the file is missing or damaged.
    """
    try:
        rows = pq.read_table(path, schema=_SCHEMA, page_checksum_verification=True).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as the table of books ({str(error).splitlines()[0]}); run the"
            " shard stage again."
        ) from error
    for row in rows:
        yield DocumentSpan(**row)


def copy_spans(source: Path, target: Path, parts: Collection[str]) -> None:
    """Write to `target` the books of `source` that are held out or in these `parts` of the
    training text.
    """
    kept = [span for span in read_spans(source) if span.set != "train" or span.part in parts]
    with target.open("wb") as file:
        write_spans(file, kept)
