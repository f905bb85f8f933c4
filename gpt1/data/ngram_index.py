"""Where a text's words occur in the books of a set: an index of every n-gram of token ids.

    file   a uint64 for each n-gram of each book, ascending: 32 bits of the hash of its ids, then
           the 32 bits of its position, counted over all books

Eight bytes a token, mapped into memory when read. A search compares the ids themselves, so two
n-grams of one hash never count as the same. An n-gram is within one book.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt1.data.sequences import U64, Indices, splitmix64
from gpt1.data.shards import Ids, Shards
from gpt1.errors import UserError

LENGTH = 8
"""Tokens of a span that counts as copied, unless another length is asked for."""
SHORTEST = 3
"""Tokens of the shortest text that is searched for."""
FORMAT = 1
"""Raise it when the content of the file changes: indexes are kept in a cache."""
AT_ONCE = 1 << 26  # n-grams sorted at a time: 1 GB of memory
_HALF = np.uint64(32)
_POSITION = np.uint64(0xFFFFFFFF)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]
Place = tuple[int, int]
"""A book's index in its set, and the index of an id in that book."""


@dataclass(frozen=True)
class Match:
    """The ids from `start` to `end` of a text occur at `count` places, of which `places` has the
    first, in the order of the books; in no book do they occur with the id before or after them.
    """

    start: int
    end: int
    count: int
    places: Sequence[Place]


class NgramIndex:
    """Exact search in the books of a set.

        >>> NgramIndex.build(shards, Path("train.ngrams"))
        >>> index = NgramIndex(shards, Path("train.ngrams"))
        >>> index.matches(tokenizer.encode("it was a dark and stormy night, and the rain fell"))
    """

    @staticmethod
    def build(shards: Shards, file: Path, n: int = LENGTH, at_once: int = AT_ONCE) -> None:
        """Write the index of all n-grams, n >= 2; takes 16 bytes of memory for each of `at_once`.

        UserError for a set of more than 2^32 ids.
        """
        if shards.tokens > 1 << 32:
            most = f"expected at most {1 << 32:,} to search in; use fewer books"
            raise UserError(f"the set has {shards.tokens:,} tokens, {most}")
        parts = max(1, -(-_ngrams(shards, n) // at_once))
        with file.open("wb") as out:
            for part in range(parts):
                low, high = (part << 32) // parts, ((part + 1) << 32) // parts
                keys = np.concatenate([*_keys(shards, n, low, high)])
                keys.sort()
                out.write(keys.data)

    def __init__(self, shards: Shards, file: Path, n: int = LENGTH) -> None:
        """Open what `build` wrote. UserError when it is of other shards, or incomplete."""
        self.shards, self.n = shards, n
        self._starts = np.cumsum([0, *shards.lengths])[:-1]  # (books,)
        count = _ngrams(shards, n)
        if (size := file.stat().st_size) != 8 * count:
            raise UserError(f"{file}: {size} bytes, expected {8 * count}; delete the file")
        keys = np.memmap(file, np.uint64, mode="r") if count else np.zeros(0, np.uint64)
        self._keys: U64 = np.asarray(keys)

    def matches(self, ids: Sequence[int], limit: int | None = None) -> list[Match]:
        """The longest spans of at least n of the `ids` (m,) that occur in a book, in their order,
        each with its first `limit` places (None: all); none is within another.

        Takes memory in proportion to the places of the text's different n-grams.
        """
        found = list[Match]()
        # Of the n-gram before: its positions, and where in `ids` the span of each begins.
        last = begins = np.zeros(0, np.int64)
        for end, positions in enumerate([*self._search(ids), last], self.n - 1):
            if not len(last) + len(positions):
                continue
            goes_on = np.isin(last + 1, positions, assume_unique=True)
            start = int(begins[~goes_on].min(initial=end))
            if start < begins[goes_on].min(initial=end):
                at = last[~goes_on & (begins == start)] - (end - self.n - start)
                books, within = self._locate(at[:limit])
                places = list(zip(books.tolist(), within.tolist(), strict=True))
                found.append(Match(start, end, len(at), places))
            spans = np.full(len(positions), end - self.n + 1)
            spans[np.isin(positions, last + 1, assume_unique=True)] = begins[goes_on]
            last, begins = positions, spans
        return found

    def _search(self, ids: Sequence[int]) -> list[Indices]:
        """The positions of each n-gram of `ids`, ascending. Equal n-grams share an array: one token
        a hundred times would else have a hundred times its places.
        """
        text = np.asarray(ids, np.int64)
        if len(text) < self.n:
            return []
        ngrams = np.lib.stride_tricks.sliding_window_view(text, self.n)  # (m - n + 1, n)
        _, firsts, numbers = np.unique(ngrams, return_index=True, return_inverse=True, axis=0)
        hashes = _hash(text, self.n)[firsts] << _HALF  # (different n-grams,)
        low = np.searchsorted(self._keys, hashes)
        counts = np.searchsorted(self._keys, hashes | _POSITION, side="right") - low
        before = np.cumsum(counts) - counts
        slots = np.arange(counts.sum()) + np.repeat(low - before, counts)  # (pairs,)
        positions = (self._keys[slots] & _POSITION).astype(np.int64)
        same = self._same(text, np.repeat(firsts, counts), positions)
        pairs = zip(np.split(positions, before[1:]), np.split(same, before[1:]), strict=True)
        found = [at[kept] for at, kept in pairs]
        return [found[number] for number in numbers.reshape(-1)]

    def _same(self, text: Indices, starts: Indices, positions: Indices) -> Mask:
        """Where the n ids of the text and of the books agree, (pairs,)."""
        books, at = self._locate(positions)
        order = np.argsort(books, kind="stable")
        ngram, same = np.arange(self.n), np.zeros(len(starts), bool)
        for rows in np.split(order, np.flatnonzero(np.diff(books[order])) + 1):
            if len(rows):
                book = self.shards.book(int(books[rows[0]]))
                found = book.take(at[rows, None] + ngram, mode="clip")  # (rows, n)
                same[rows] = (found == text[starts[rows, None] + ngram]).all(axis=1)
        return same

    def _locate(self, positions: Indices) -> tuple[Indices, Indices]:
        """The books' indices of positions (pairs,), and the places in the books."""
        books = np.searchsorted(self._starts, positions, side="right") - 1
        return books, positions - self._starts[books]


def copied(matches: Sequence[Match]) -> int:
    """How many ids of a text are in one of its spans or more."""
    return len({at for match in matches for at in range(match.start, match.end)})


def whole_text(shards: Shards, ids: Sequence[int], limit: int | None = None) -> list[Match]:
    """The match of all `ids` (m,), found without an index, for texts shorter than its n-grams.

    No match for fewer than SHORTEST.
    """
    places: list[Place] = []
    for index, book in enumerate(shards if len(ids) >= SHORTEST else ()):
        at = np.arange(max(0, len(book) - len(ids) + 1))
        for within, wanted in enumerate(ids):
            at = at[book[at + within] == wanted]
        places += [(index, place) for place in at.tolist()]
    return [Match(0, len(ids), len(places), places[:limit])] if places else []


def _ngrams(shards: Shards, n: int) -> int:
    """The number of n-grams in all books."""
    return sum(max(0, length - n + 1) for length in shards.lengths)


def _keys(shards: Shards, n: int, low: int, high: int) -> Iterator[U64]:
    """The unsorted keys of each book's n-grams whose hash is from `low` to below `high`."""
    first = 0
    for ids in shards:
        hashes = _hash(ids, n)
        chosen = np.flatnonzero((hashes >= low) & (hashes < high))
        yield (hashes[chosen] << _HALF) | (first + chosen).astype(np.uint64)
        first += len(ids)


def _hash(ids: Ids | Indices, n: int) -> U64:
    """A hash of 32 bits of each n-gram of `ids` (m,), (m - n + 1,)."""
    count = max(0, len(ids) - n + 1)
    hashes = np.zeros(count, np.uint64)
    for within in range(n):
        hashes *= _FACTOR  # of arrays, numpy wraps without a warning
        hashes += ids[within : within + count].astype(np.uint64)
    return splitmix64(hashes) >> _HALF
