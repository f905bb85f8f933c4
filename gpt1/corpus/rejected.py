"""Rejected books: kept whole, with the rule that rejected them and its evidence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

import pyarrow as pa

from gpt1.corpus.clean import Cleaned
from gpt1.corpus.parts import BOOKS, write_rows

REJECTED = pa.schema([pa.field("rule", pa.string()), pa.field("evidence", pa.string()), *BOOKS])


def write_rejected(file: IO[bytes], books: Iterable[Cleaned]) -> int:
    """Write rejected books; returns how many."""
    return write_rows(file, REJECTED, ({"rule": item.rejected, "evidence": item.evidence, **vars(item.book)} for item in books))
