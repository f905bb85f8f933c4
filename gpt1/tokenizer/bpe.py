"""Byte pair encoding of one word."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, repeat

END = "</w>"
Merge = tuple[str, str]


def symbols(word: str) -> list[str]:
    """The word's characters, with the end mark fused to the last."""
    return [*word[:-1], word[-1] + END]


def pieces(word: str, ranks: Mapping[Merge, int]) -> list[str]:
    """The word cut into pieces: the pair of the lowest rank is merged first, all its occurrences
    at once (docs/explanation/tokenization.md).

    The time grows with the square of the length, which `normalize.LONGEST` bounds.
    """
    parts = symbols(word)
    unranked = len(ranks)
    found = list(map(ranks.get, pairwise(parts), repeat(unranked)))
    while found:
        rank = min(found)
        if rank == unranked:
            break
        at = found.index(rank)
        if found.count(rank) > 1:
            parts = merge(parts, parts[at], parts[at + 1])
            found = [ranks.get(pair, unranked) for pair in pairwise(parts)]
            continue
        joined = parts[at] + parts[at + 1]
        parts[at : at + 2] = [joined]
        del found[at]
        if at:
            found[at - 1] = ranks.get((parts[at - 1], joined), unranked)
        if at < len(found):
            found[at] = ranks.get((joined, parts[at + 1]), unranked)
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
