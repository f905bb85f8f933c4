"""Byte pair encoding of one word, and the merges' file form."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import pairwise

END = "</w>"
# Beyond this many characters the plain loop, whose time grows with the square, loses.
_LONG = 200
Merge = tuple[str, str]


def symbols(word: str) -> list[str]:
    """The word's characters, with the end mark fused to the last."""
    return [*word[:-1], word[-1] + END]


def pieces(word: str, ranks: Mapping[Merge, int]) -> list[str]:
    """The word cut into pieces: the pair of the lowest rank is merged first, all its occurrences
    at once (docs/explanation/tokenization.md).
    """
    parts = symbols(word)
    if len(parts) > _LONG:
        return _pieces_of_long(parts, ranks)
    unranked = len(ranks)
    found = [ranks.get(pair, unranked) for pair in pairwise(parts)]
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


def _pieces_of_long(parts: list[str], ranks: Mapping[Merge, int]) -> list[str]:
    """The same in time n log n: the places of each rank are kept, and a round takes those of the
    lowest from the left.
    """
    before = list(range(-1, len(parts) - 1))
    after = [*range(1, len(parts)), -1]
    places: dict[int, list[int]] = {}
    waiting: list[int] = []

    def note(at: int) -> None:
        rank = ranks.get((parts[at], parts[after[at]]))
        if rank is None:
            return
        if rank not in places:
            places[rank] = []
            heapq.heappush(waiting, rank)
        places[rank].append(at)

    for at in range(len(parts) - 1):
        note(at)
    while waiting:
        rank = heapq.heappop(waiting)
        joined: list[int] = []
        for at in sorted(set(places.pop(rank))):
            second = after[at]
            # An earlier merge may have taken either part; an empty string is a part that was joined
            # to the one before it.
            if second < 0 or not parts[at] or ranks.get((parts[at], parts[second])) != rank:
                continue
            parts[at] += parts[second]
            parts[second] = ""
            after[at] = after[second]
            if after[at] >= 0:
                before[after[at]] = at
            joined.append(at)
        for at in joined:
            if not parts[at]:
                continue
            if before[at] >= 0:
                note(before[at])
            if after[at] >= 0:
                note(at)
    return [part for part in parts if part]
