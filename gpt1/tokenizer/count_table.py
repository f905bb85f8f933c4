"""Word counts in a file: two columns, ordered by word, so that equal counts give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpt1.errors import UserError

_COUNTS = pa.schema([("word", pa.string()), ("count", pa.int64())])


def write_counts(file: IO[bytes], counts: Mapping[str, int]) -> None:
    """Write the table."""
    ordered = sorted(counts)
    _write(
        file,
        pa.table({"word": ordered, "count": [counts[word] for word in ordered]}, schema=_COUNTS),
    )


def read_counts(paths: Sequence[Path]) -> dict[str, int]:
    """The summed counts of tables written by `write_counts` or `merge_counts`, ordered by word."""
    table = _summed(paths)
    return dict(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True))


def merge_counts(file: IO[bytes], paths: Sequence[Path]) -> int:
    """Write the sum of some tables as one; returns its number of words."""
    table = _summed(paths)
    _write(file, table)
    return int(table.num_rows)


def _summed(paths: Sequence[Path]) -> pa.Table:
    joined = pa.concat_tables([_read(path) for path in paths])
    # In one thread: arrow's own order of bytes is that of code points, and the order before the
    # sort cannot matter.
    summed = joined.group_by("word", use_threads=False).aggregate([("count", "sum")])
    ordered = summed.take(pc.sort_indices(summed["word"]))
    return pa.table(
        {"word": ordered["word"].combine_chunks(), "count": ordered["count_sum"].combine_chunks()},
        schema=_COUNTS,
    )


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=_COUNTS)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as a table of word counts ({str(error).splitlines()[0]}); run"
            " the vocabulary stage again."
        ) from error


def _write(file: IO[bytes], table: pa.Table) -> None:
    pq.write_table(table, file, compression="zstd", compression_level=3)
