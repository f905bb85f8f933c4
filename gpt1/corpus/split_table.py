"""split.parquet: written and read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa

from gpt1.corpus.parts import read_rows, write_table
from gpt1.corpus.split import SplitRow

SPLIT = pa.schema(
    [
        ("book", pa.string()),
        ("part", pa.string()),
        ("set", pa.string()),
        ("tail_start", pa.int64()),
        ("length", pa.int64()),
        ("digest", pa.string()),
        ("copy_of", pa.string()),
    ]
)


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
