"""Byte pair encoding of one word, and the merges' file form."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

END = "</w>"
Merge = tuple[str, str]


def symbols(word: str) -> list[str]:
    """The word's characters, with the end mark fused to the last."""
    return [*word[:-1], word[-1] + END]


def pieces(word: str, ranks: Mapping[Merge, int]) -> list[str]:
    """The word cut into pieces: the pair of the lowest rank is merged first, all its occurrences at once (SPEC section 2)."""
    parts = symbols(word)
    while len(parts) > 1:
        pairs = pairwise(parts)
        rank, first, second = min((ranks.get(pair, len(ranks)), *pair) for pair in pairs)
        if rank == len(ranks):
            break
        parts = merge(parts, first, second)
    return parts


def merge(parts: list[str], first: str, second: str) -> list[str]:
    """`parts` with each `first`, `second` that follow one another joined, from the left."""
    joined: list[str] = []
    at = 0
    while at < len(parts):
        if parts[at] == first and at + 1 < len(parts) and parts[at + 1] == second:
            joined.append(first + second)
            at += 2
            continue
        joined.append(parts[at])
        at += 1
    return joined
