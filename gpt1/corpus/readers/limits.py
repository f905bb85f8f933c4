"""How a corpus is to be read, and how much of it at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIB = 1 << 20
SLACK = 16 * MIB
"""Bytes that may come out of a compressed file before its ratio is looked at: small files of
blanks compress well too.
"""


@dataclass(frozen=True)
class Limits:
    """Ceilings that bound memory and time whatever the input.

    Bytes are those of the unpacked text.
    """

    document: int = 64 * MIB
    archive: int = 64 << 30
    ratio: int = 100
    line: int = 1_000_000


@dataclass(frozen=True)
class Reading:
    """What decides the texts that come out of the same bytes."""

    limits: Limits = Limits()
    fallback: str = "detect"
    text_column: str = "text"
    rows: Literal["auto", "documents", "sentences"] = "auto"
    stretch: int = 6_700
