"""Byte pair encoding of one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

END = "</w>"
Merge = tuple[str, str]
Piece = TypeVar("Piece", int, str)

# A pair of pieces, or a rank and a piece, in one number: half the time of tuples of texts.
_BITS = 24
_PIECE = (1 << _BITS) - 1
_NO_RANK = 1 << 2 * _BITS


def symbols(word: str) -> list[str]:
    """The word's characters, with the end mark fused to the last."""
    return [*word[:-1], word[-1] + END]


class Merges:
    """Pairs of pieces that are merged, by rank: the pair of the lowest rank first, all its
    occurrences in a word at once (docs/explanation/tokenization.md).
    """

    def __init__(self, merges: Sequence[Merge], ids: Mapping[str, int]) -> None:
        """`ids` counts its pieces from 0 on. A piece that it lacks gets a number beyond; a
        character in no merge is -1.
        """
        self._numbers = numbers = dict(ids)
        for pair in merges:
            for piece in (*pair, "".join(pair)):
                numbers.setdefault(piece, len(numbers))
        self._merged = {
            numbers[first] << _BITS | numbers[second]: rank << _BITS | numbers[first + second]
            for rank, (first, second) in enumerate(merges)
        }

    def pieces(self, word: str) -> list[int]:
        """The numbers of the word's pieces.

        The time grows with the square of the length, which `normalize.LONGEST` bounds.
        """
        merged = self._merged.get
        parts = [self._numbers.get(symbol, -1) for symbol in symbols(word)]
        ranked = [merged(a << _BITS | b, _NO_RANK) for a, b in pairwise(parts)]
        while ranked and (best := min(ranked)) != _NO_RANK:
            at, piece = ranked.index(best), best & _PIECE
            if ranked.count(best) > 1:
                parts = merge(parts, parts[at], parts[at + 1], piece)
                ranked = [merged(a << _BITS | b, _NO_RANK) for a, b in pairwise(parts)]
                continue
            parts[at : at + 2] = [piece]
            del ranked[at]
            if at:
                ranked[at - 1] = merged(parts[at - 1] << _BITS | piece, _NO_RANK)
            if at < len(ranked):
                ranked[at] = merged(piece << _BITS | parts[at + 1], _NO_RANK)
        return parts


def merge(parts: list[Piece], first: Piece, second: Piece, piece: Piece) -> list[Piece]:
    """`parts` with `piece` for each `first`, `second` that follow one another, from the left."""
    joined: list[Piece] = []
    at = 0
    while at < len(parts):
        if parts[at] == first and at + 1 < len(parts) and parts[at + 1] == second:
            joined.append(piece)
            at += 2
            continue
        joined.append(parts[at])
        at += 1
    return joined
