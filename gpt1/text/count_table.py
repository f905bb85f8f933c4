"""Word counts in a file: two columns, ordered by word, so that equal counts give equal bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

_COUNTS = pa.schema([("word", pa.string()), ("count", pa.int64())])


def write_counts(file: IO[bytes], counts: Mapping[str, int]) -> None:
    """Write the table."""
    ordered = sorted(counts)
    table = pa.table({"word": ordered, "count": [counts[word] for word in ordered]}, schema=_COUNTS)
    pq.write_table(table, file, compression="zstd", compression_level=3)


def read_counts(path: Path) -> Counter[str]:
    """The counts of a table written by `write_counts`."""
    table = pq.read_table(path)
    return Counter(dict(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True)))
