"""Learning merges from a table of word counts, with the result of subword-nmt 0.2 on the same
table, ties included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush

from gpt1.tokenizer.bpe import Merge
from gpt1.tokenizer.symbol_arrays import BOUNDARY, SymbolArrays, code, members

_LAST = 0x10FFFF


def learn_merges(
    counts: Mapping[str, int], merges: int, minimum: int = 2,
    progress: Callable[[int], None] | None = None,
) -> list[Merge]:
    """At most `merges` merges, most frequent pair first; a tie goes to the greater pair of strings.

    Stops early when no pair occurs `minimum` times. `progress` is told the number learned so far,
    every thousand merges.

    Why plain counting is enough: the symbols within a stretch of text that ends up as one symbol
    depend on that stretch alone, so there is one way for a text to become a symbol. No two merges
    have the same output, and a pair gains occurrences only in the merge that makes the later of its
    symbols. So the pairs that subword-nmt prunes for speed never gain: pruning changes nothing.
    """
    learner = _Learner(counts, minimum)
    learned: list[Merge] = []
    while len(learned) < merges:
        pair = learner.best()
        if pair is None:
            break
        learned.append(learner.apply(pair))
        if progress is not None and len(learned) % 1000 == 0:
            progress(len(learned))
    return learned


class _Learner:
    """The count of each pair, and a queue of those that can be the next.

    The queue holds pairs of at least `_floor` occurrences; when it is empty the floor is lowered.
    So the million pairs that will never be merged are never queued. An entry may promise more than
    its pair has by now, never less.
    """

    def __init__(self, counts: Mapping[str, int], minimum: int) -> None:
        self._minimum = max(1, minimum)
        self._arrays = SymbolArrays(counts)
        self._counts = self._arrays.initial_counts()
        self._keys: list[str] = []
        self._queue: list[tuple[int, str, int]] = []
        self._floor = max(self._counts.values(), default=0) + 1

    def best(self) -> int | None:
        """The most frequent pair, or None when it occurs less than the minimum."""
        while True:
            while self._queue:
                promised, key, pair = self._queue[0]
                count = self._counts[pair]
                if count == -promised:
                    return pair
                heappop(self._queue)
                if count >= self._floor:
                    heappush(self._queue, (-count, key, pair))
            if self._floor <= self._minimum:
                return None
            self._lower_floor()

    def _lower_floor(self) -> None:
        above, self._floor = self._floor, max(self._minimum, self._floor // 2)
        for pair, count in self._counts.items():
            if self._floor <= count < above:
                heappush(self._queue, self._entry(pair, count))

    def apply(self, pair: int) -> Merge:
        """Merge the pair in every word and bring the counts of its neighbours up to date."""
        counts = self._counts
        first, second = members(pair)
        new, before, after = self._arrays.merge(first, second)
        for partner, count in zip(before.partners.tolist(), before.counts.tolist(), strict=True):
            if partner == BOUNDARY:
                continue
            counts[code(second if partner == new else partner, first)] -= count
            self._gain(code(partner, new), count)
        for partner, count in zip(after.partners.tolist(), after.counts.tolist(), strict=True):
            # A new symbol followed by another was counted as what stands before that one.
            if partner in (BOUNDARY, new):
                continue
            counts[code(second, partner)] -= count
            self._gain(code(new, partner), count)
        counts[pair] = 0
        return self._arrays.texts[first], self._arrays.texts[second]

    def _gain(self, pair: int, count: int) -> None:
        self._counts[pair] = count
        if count >= self._floor:
            heappush(self._queue, self._entry(pair, count))

    def _entry(self, pair: int, count: int) -> tuple[int, str, int]:
        first, second = members(pair)
        for text in self._arrays.texts[len(self._keys) :]:
            self._keys.append(_descending(text))
        return (-count, self._keys[first] + self._keys[second], pair)


def _descending(symbol: str) -> str:
    """A string that sorts before another exactly when `symbol` sorts after it: the queue has its
    least entry on top.
    """
    return "".join(chr(_LAST - ord(character)) for character in symbol) + chr(_LAST)
