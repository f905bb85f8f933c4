"""Rejected books: kept whole, with the rule that rejected them and its evidence."""

from __future__ import annotations

from types import TracebackType
from typing import IO, Self

import pyarrow as pa
import pyarrow.parquet as pq

from gpt1.corpus.clean import Cleaned
from gpt1.corpus.parquet_io import BOOKS

REJECTED = pa.schema([pa.field("rule", pa.string()), pa.field("evidence", pa.string()), *BOOKS])


class RejectedWriter:
    """Writes rejected books one at a time, each a row group of its own; the text is the one the
    book came with.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._writer = pq.ParquetWriter(file, REJECTED, compression="zstd", compression_level=3)

    def write(self, item: Cleaned) -> None:
        """Add a rejected book."""
        row = {"rule": item.rejected, "evidence": item.evidence, **vars(item.book)}
        self._writer.write_table(pa.Table.from_pylist([row], schema=REJECTED))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
