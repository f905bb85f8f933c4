"""Learning merges from a table of word counts, with the result of subword-nmt 0.2 on the same
table, ties included; and the tables' files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gpt1.errors import UserError
from gpt1.tokenizer.bpe import END, Merge

_LAST = 0x10FFFF
_BOUNDARY = 0
_SHIFT = 32
_COUNTS = pa.schema([("word", pa.string()), ("count", pa.int64())])

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]
Places = np.ndarray[tuple[int], np.dtype[np.int32]]

# Learning


def learn_merges(
    counts: Mapping[str, int], merges: int, minimum: int = 2,
    progress: Callable[[int], None] | None = None,
) -> list[Merge]:
    """At most `merges` merges, most frequent pair first; a tie goes to the greater pair of strings.

    Stops early when no pair occurs `minimum` times. `progress` gets the number learned so far,
    every thousand merges.

    Why plain counting is enough: the symbols within a segment of text that ends up as one symbol
    depend on that segment alone, so there is one way for a text to become a symbol. No two merges
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
        self._arrays = _SymbolArrays(counts)
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
        """Merge the pair in every word and bring the counts of its neighbors up to date."""
        counts = self._counts
        first, second = _members(pair)
        new, before, after = self._arrays.merge(first, second)
        for partner, count in zip(before.partners.tolist(), before.counts.tolist(), strict=True):
            if partner == _BOUNDARY:
                continue
            counts[_code(second if partner == new else partner, first)] -= count
            self._gain(_code(partner, new), count)
        for partner, count in zip(after.partners.tolist(), after.counts.tolist(), strict=True):
            # A new symbol followed by another was counted as what is before that one.
            if partner in (_BOUNDARY, new):
                continue
            counts[_code(second, partner)] -= count
            self._gain(_code(new, partner), count)
        counts[pair] = 0
        return self._arrays.texts[first], self._arrays.texts[second]

    def _gain(self, pair: int, count: int) -> None:
        self._counts[pair] = count
        if count >= self._floor:
            heappush(self._queue, self._entry(pair, count))

    def _entry(self, pair: int, count: int) -> tuple[int, str, int]:
        first, second = _members(pair)
        for text in self._arrays.texts[len(self._keys) :]:
            self._keys.append(_descending(text))
        return (-count, self._keys[first] + self._keys[second], pair)


def _descending(symbol: str) -> str:
    """A string that sorts before another exactly when `symbol` sorts after it: the queue has its
    least entry on top.
    """
    return "".join(chr(_LAST - ord(character)) for character in symbol) + chr(_LAST)


# Symbols


def _code(first: int, second: int) -> int:
    """A pair of symbols as one number."""
    return first << _SHIFT | second


def _members(pair: int) -> tuple[int, int]:
    """The two symbols of a pair's number."""
    return pair >> _SHIFT, pair & ((1 << _SHIFT) - 1)


@dataclass(frozen=True)
class _Neighbors:
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


class _SymbolArrays:
    """Symbols have numbers; 0 is between words and at places that a merge has taken away.

    A place of a pair is the place of its first symbol. A pair comes to stand somewhere only in the
    merge that makes the later of its two symbols, so its places are among the neighbors noted
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
        self._before: dict[int, _Neighbors] = {}
        self._after: dict[int, _Neighbors] = {}
        self._first = self._initial_pairs()

    def initial_counts(self) -> dict[int, int]:
        """How often each pair is in the words before any merge."""
        return dict(zip(self._first.partners.tolist(), self._first.counts.tolist(), strict=True))

    def merge(self, first: int, second: int) -> tuple[int, _Neighbors, _Neighbors]:
        """Replace the pair everywhere by a new symbol.

        Returns its number, and the symbols before and after it.

        A new symbol that follows another counts as a neighbor of both.
        """
        new = len(self.texts)
        self.texts.append(self.texts[first] + self.texts[second])
        places = self._find(first, second)  # (n,)
        taken = self._next[places]
        right = self._next[taken]
        self._symbol[places] = new
        self._symbol[taken] = _BOUNDARY
        self._next[places] = right
        self._previous[right] = places
        left = self._previous[places]
        frequency = self._frequency[places]
        before = self._before[new] = _grouped(self._symbol[left], frequency, left)
        after = self._after[new] = _grouped(self._symbol[right], frequency, places)
        return new, before, after

    def _find(self, first: int, second: int) -> Places:
        """Every place where the pair is now; of places that overlap (`a a a`) the first, the
        third, and so on.
        """
        if second in self._before and second > first:
            places = self._before[second].of(first)
        elif first in self._after:
            places = self._after[first].of(second)
        else:
            places = self._first.of(_code(first, second))
        places = places[self._symbol[places] == first]
        places = places[self._symbol[self._next[places]] == second]
        return self._apart(places) if first == second else places

    def _apart(self, places: Places) -> Places:
        places = np.sort(places)
        begins = np.ones(len(places), dtype=bool)
        begins[1:] = self._next[places[:-1]] != places[1:]
        index = np.arange(len(places))
        return places[(index - np.maximum.accumulate(np.where(begins, index, 0))) % 2 == 0]

    def _initial_pairs(self) -> _Neighbors:
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


def _grouped(partners: Ints | Places, frequency: Ints, places: Places) -> _Neighbors:
    """Places (n,) gathered by partner, with the words counted at them summed."""
    order = partners.argsort(kind="stable")
    ordered = partners[order]
    changes = np.flatnonzero(ordered[1:] != ordered[:-1])
    starts = np.zeros(len(changes) + 1 if len(ordered) else 0, dtype=np.int64)
    np.add(changes, 1, out=starts[1:])
    counts = np.add.reduceat(frequency[order], starts) if len(ordered) else frequency[:0]
    return _Neighbors(ordered[starts].astype(np.int64), counts, starts, places[order])


# Tables of word counts


def write_counts(file: IO[bytes], counts: Mapping[str, int]) -> None:
    """Write the table."""
    ordered = sorted(counts)
    _write(
        file,
        pa.table({"word": ordered, "count": [counts[word] for word in ordered]}, schema=_COUNTS),
    )


def read_counts(paths: Sequence[Path]) -> dict[str, int]:
    """The summed counts of tables written by `write_counts` or `merge_counts`, ordered by word."""
    table = _summed(paths)
    return dict(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True))


def merge_counts(file: IO[bytes], paths: Sequence[Path]) -> int:
    """Write the sum of some tables as one; returns its number of words."""
    table = _summed(paths)
    _write(file, table)
    return int(table.num_rows)


def _summed(paths: Sequence[Path]) -> pa.Table:
    joined = pa.concat_tables([_read(path) for path in paths])
    # In one thread: arrow's own order of bytes is that of code points, and the order before the
    # sort cannot matter.
    summed = joined.group_by("word", use_threads=False).aggregate([("count", "sum")])
    ordered = summed.take(pc.sort_indices(summed["word"]))
    return pa.table(
        {"word": ordered["word"].combine_chunks(), "count": ordered["count_sum"].combine_chunks()},
        schema=_COUNTS,
    )


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=_COUNTS)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as a table of word counts ({str(error).splitlines()[0]}); run"
            " the vocabulary stage again."
        ) from error


def _write(file: IO[bytes], table: pa.Table) -> None:
    pq.write_table(table, file, compression="zstd", compression_level=3)
