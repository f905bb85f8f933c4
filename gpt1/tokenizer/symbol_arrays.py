"""All counted words as one linked list of symbols in arrays, in which a merge touches only the
places where its pair stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt1.tokenizer.bpe import END

BOUNDARY = 0
_SHIFT = 32

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]
Places = np.ndarray[tuple[int], np.dtype[np.int32]]


def code(first: int, second: int) -> int:
    """A pair of symbols as one number."""
    return first << _SHIFT | second


def members(pair: int) -> tuple[int, int]:
    """The two symbols of a pair's number."""
    return pair >> _SHIFT, pair & ((1 << _SHIFT) - 1)


@dataclass(frozen=True)
class Neighbours:
    """The symbols beside a new one, each once and in order: partner (n,), words counted (n,),
    and the pairs' places, grouped.
    """

    partners: Ints
    counts: Ints
    starts: Ints
    places: Places

    def of(self, partner: int) -> Places:
        """Where the pair with that partner begins."""
        at = int(self.partners.searchsorted(partner))
        if at == len(self.partners) or self.partners[at] != partner:
            return self.places[:0]
        end = self.starts[at + 1] if at + 1 < len(self.starts) else len(self.places)
        return self.places[self.starts[at] : end]


class SymbolArrays:
    """Symbols have numbers; 0 stands between words and at places that a merge has taken away.

    A place of a pair is the place of its first symbol. A pair comes to stand somewhere only in the
    merge that makes the later of its two symbols, so its places are among the neighbours noted
    then; what has been merged since is sorted out by `_find`.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        words = [word for word in counts if len(word) > 1]
        self.texts: list[str] = [""]
        self._symbol, lengths = _initial(words, self.texts)  # (P,), (words,)
        self._next = np.arange(1, len(self._symbol) + 1, dtype=np.int32)
        self._previous = np.arange(-1, len(self._symbol) - 1, dtype=np.int32)
        frequency = np.array([counts[word] for word in words], dtype=np.int64)
        self._frequency = np.concatenate(
            [[0], np.repeat(frequency, lengths + 1)]
        )  # (P,), of the word at each place
        self._before: dict[int, Neighbours] = {}
        self._after: dict[int, Neighbours] = {}
        self._first = self._initial_pairs()

    def initial_counts(self) -> dict[int, int]:
        """How often each pair stands in the words before any merge."""
        return dict(zip(self._first.partners.tolist(), self._first.counts.tolist(), strict=True))

    def merge(self, first: int, second: int) -> tuple[int, Neighbours, Neighbours]:
        """Replace the pair everywhere by a new symbol.

        Returns its number, and the symbols before and after it.

        A new symbol that follows another counts as a neighbour of both.
        """
        new = len(self.texts)
        self.texts.append(self.texts[first] + self.texts[second])
        places = self._find(first, second)  # (n,)
        taken = self._next[places]
        right = self._next[taken]
        self._symbol[places] = new
        self._symbol[taken] = BOUNDARY
        self._next[places] = right
        self._previous[right] = places
        left = self._previous[places]
        frequency = self._frequency[places]
        before = self._before[new] = _grouped(self._symbol[left], frequency, left)
        after = self._after[new] = _grouped(self._symbol[right], frequency, places)
        return new, before, after

    def _find(self, first: int, second: int) -> Places:
        """Every place where the pair stands now; of places that overlap (`a a a`) the first, the
        third, and so on.
        """
        if second in self._before and second > first:
            places = self._before[second].of(first)
        elif first in self._after:
            places = self._after[first].of(second)
        else:
            places = self._first.of(code(first, second))
        places = places[self._symbol[places] == first]
        places = places[self._symbol[self._next[places]] == second]
        return self._apart(places) if first == second else places

    def _apart(self, places: Places) -> Places:
        places = np.sort(places)
        begins = np.ones(len(places), dtype=bool)
        begins[1:] = self._next[places[:-1]] != places[1:]
        index = np.arange(len(places))
        return places[(index - np.maximum.accumulate(np.where(begins, index, 0))) % 2 == 0]

    def _initial_pairs(self) -> Neighbours:
        symbols = self._symbol.astype(np.int64)
        both = (symbols[:-1] > 0) & (symbols[1:] > 0)
        places = np.flatnonzero(both).astype(np.int32)
        return _grouped(
            symbols[:-1][both] << _SHIFT | symbols[1:][both], self._frequency[places], places
        )


def _initial(words: Sequence[str], texts: list[str]) -> tuple[Places, Ints]:
    """Each word's characters as numbers between boundaries (P,), and the words' lengths; fills
    `texts`.
    """
    points = np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    lengths = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    keys = points.astype(np.int64) * 2
    keys[np.cumsum(lengths) - 1] += 1  # a word's last character carries the end mark
    distinct, numbers = np.unique(keys, return_inverse=True)
    texts += [chr(key >> 1) + (END if key & 1 else "") for key in distinct.tolist()]
    inside = np.ones(len(points) + len(words) + 1, dtype=bool)
    inside[0] = False
    inside[np.cumsum(lengths + 1)] = False
    symbols = np.zeros(len(inside), dtype=np.int32)
    symbols[inside] = numbers + 1
    return symbols, lengths


def _grouped(partners: Ints | Places, frequency: Ints, places: Places) -> Neighbours:
    """Places (n,) gathered by partner, with the words counted at them summed."""
    order = partners.argsort(kind="stable")
    ordered = partners[order]
    changes = np.flatnonzero(ordered[1:] != ordered[:-1])
    starts = np.zeros(len(changes) + 1 if len(ordered) else 0, dtype=np.int64)
    np.add(changes, 1, out=starts[1:])
    counts = np.add.reduceat(frequency[order], starts) if len(ordered) else frequency[:0]
    return Neighbours(ordered[starts].astype(np.int64), counts, starts, places[order])
