"""split.parquet and the tables of signatures: written and read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa

from gpt1.corpus.minhash import Signature
from gpt1.corpus.parquet_io import read_rows, write_rows, write_table
from gpt1.corpus.split import SplitRow

SPLIT = pa.schema(
    [
        ("book", pa.string()), ("part", pa.string()), ("set", pa.string()),
        ("tail_start", pa.int64()), ("length", pa.int64()), ("digest", pa.string()),
        ("group", pa.string()), ("copy_of", pa.string()), ("share", pa.float64()),
        ("jaccard", pa.float64()),
    ]
)
SIGNATURES = pa.schema(
    [
        ("book", pa.string()), ("part", pa.string()), ("form", pa.string()),
        ("digest", pa.string()), ("words", pa.int64()), ("length", pa.int64()),
        ("tail_start", pa.int64()), ("minhash", pa.binary()), ("smallest", pa.binary()),
    ]
)


def write_signatures(file: IO[bytes], signatures: Iterable[Signature]) -> int:
    """Write the signatures of one part in the order given; returns how many."""
    return write_rows(file, SIGNATURES, (vars(item) for item in signatures))


def read_signatures(path: Path) -> Iterator[Signature]:
    """The signatures of one part."""
    return (Signature(**row) for row in read_rows(path))


def write_split(file: IO[bytes], rows: Sequence[SplitRow]) -> None:
    """Write the table in the order given."""
    write_table(file, SPLIT, [vars(row) for row in rows])


def read_split(path: Path) -> list[SplitRow]:
    """The rows of split.parquet, ordered by book."""
    return [SplitRow(**row) for row in read_rows(path)]


def rows_by_part(rows: Sequence[SplitRow]) -> dict[str, list[SplitRow]]:
    """The rows of each part (`part-0007`), ordered by book."""
    parts: dict[str, list[SplitRow]] = {}
    for row in rows:
        parts.setdefault(row.part, []).append(row)
    return parts
