"""The plain way to learn merges fast: a heap over the pairs, words as lists of strings.

For comparison in benchmarks/bpe.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from itertools import pairwise

from gpt1.tokenizer.bpe import Merge, merge, symbols

_Entry = tuple[int, str, str, Merge]
_LAST = 0x10FFFF


def learn_with_a_heap(
    counts: Mapping[str, int], merges: int, minimum: int = 2,
) -> list[Merge]:
    """At most `merges` merges, most frequent pair first; a tie goes to the greater pair of strings.

    Stops early when no pair occurs `minimum` times.
    """
    table = _PairTable(counts)
    learned: list[Merge] = []
    while len(learned) < merges:
        pair = table.best(minimum)
        if pair is None:
            break
        learned.append(pair)
        table.apply(pair)
    return learned


class _PairTable:
    """Words as symbols, the count of each pair, where it occurs, and a heap over the counts.

    An entry of the heap may promise more than its pair has by now, never less: whoever takes it off
    looks at the count first.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._words = [symbols(word) for word in counts]
        self._frequency = list(counts.values())
        self._counts: defaultdict[Merge, int] = defaultdict(int)
        self._where: defaultdict[Merge, set[int]] = defaultdict(set)
        self._keys: dict[str, str] = {}
        for number, parts in enumerate(self._words):
            for pair in pairwise(parts):
                self._counts[pair] += self._frequency[number]
                self._where[pair].add(number)
        self._heap = [self._entry(pair, count) for pair, count in self._counts.items()]
        heapify(self._heap)

    def best(self, minimum: int) -> Merge | None:
        """The most frequent pair, or None when it occurs less than `minimum` times."""
        while self._heap:
            promised, _, _, pair = self._heap[0]
            count = self._counts.get(pair, 0)
            if count == -promised:
                return pair if count >= minimum else None
            heappop(self._heap)
            if 0 < count < -promised:
                heappush(self._heap, self._entry(pair, count))
        return None

    def apply(self, pair: Merge) -> None:
        """Merge the pair in every word and bring the counts of its neighbours up to date."""
        changes: defaultdict[Merge, int] = defaultdict(int)
        for number in self._where.pop(pair):
            before = self._words[number]
            after = merge(before, *pair, "".join(pair))
            if len(after) == len(before):
                continue  # an earlier merge has taken the pair out of this word
            self._words[number] = after
            frequency = self._frequency[number]
            for lost in _lost(before, pair):
                changes[lost] -= frequency
            for gained in _gained(after, pair[0] + pair[1]):
                changes[gained] += frequency
                self._where[gained].add(number)
        self._counts.pop(pair, None)
        changes.pop(pair, None)
        for changed, change in changes.items():
            self._counts[changed] += change
            if change > 0:
                heappush(self._heap, self._entry(changed, self._counts[changed]))

    def _entry(self, pair: Merge, count: int) -> _Entry:
        return (-count, self._descending(pair[0]), self._descending(pair[1]), pair)

    def _descending(self, symbol: str) -> str:
        """A string that sorts before another exactly when `symbol` sorts after it: the heap has
        its least entry on top.
        """
        key = self._keys.get(symbol)
        if key is None:
            key = "".join(chr(_LAST - ord(character)) for character in symbol) + chr(_LAST)
            self._keys[symbol] = key
        return key


def _lost(parts: list[str], pair: Merge) -> Iterator[Merge]:
    """The pairs that overlap an occurrence of `pair`, each once."""
    first, second = pair
    at = 0
    while at < len(parts) - 1:
        if parts[at] != first or parts[at + 1] != second:
            at += 1
            continue
        if at:
            yield (parts[at - 1], first)
        # Where the pair follows itself at once, the pair between the two is that of the line above
        # for the second.
        if at + 2 < len(parts) and tuple(parts[at + 2 : at + 4]) != pair:
            yield (second, parts[at + 2])
        at += 2


def _gained(parts: list[str], joined: str) -> Iterator[Merge]:
    """The pairs of which the new symbol is a member, each once."""
    for at, part in enumerate(parts):
        if part != joined:
            continue
        if at:
            yield (parts[at - 1], joined)
        if at + 1 < len(parts) and parts[at + 1] != joined:
            yield (joined, parts[at + 1])
