"""Which books share text: pairs with an estimate of how much, from signatures alone.

datasketch's index of MinHash values proposes the pairs (one equal minimum is enough: a wide net),
its estimate of the Jaccard similarity drops those with a single one, and the smallest run hashes
say how much of the shorter book stands in the longer. That share, not the Jaccard similarity,
decides: it finds an edition without a chapter and a story inside a collection alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasketch import MinHashLSH
from numpy.typing import NDArray

from gpt1.corpus.minhash import SMALLEST, Signature, minhash_of

_FEWEST_MINIMA = 2
_FEWEST_SHARED = 8
"""A share of fewer sampled runs than this can be chance: common phrases, of which a long book
has many.
"""


@dataclass(frozen=True)
class Pair:
    """Two books that share text: `share` of the runs of five words of `shorter` stand in `longer`;
    `jaccard` is datasketch's.
    """

    longer: Signature
    shorter: Signature
    share: float
    jaccard: float


def by_length(signatures: Sequence[Signature]) -> list[Signature]:
    """The longest first (in words); of equally long ones the first id."""
    return sorted(signatures, key=lambda item: (-item.words, item.book))


def sharing_pairs(signatures: Sequence[Signature], least: float) -> list[Pair]:
    """The pairs of which at least the share `least` of the shorter book stands in the longer,
    ordered by length and id.

    Books without a MinHash are not compared. The signatures must have one number of permutations.
    """
    books = [item for item in by_length(signatures) if item.minhash]
    if not books:
        return []
    minhashes = [minhash_of(item) for item in books]
    permutations = len(minhashes[0])
    index = MinHashLSH(num_perm=permutations, params=(permutations, 1))
    smallest = [np.frombuffer(item.smallest, dtype="<u8") for item in books]
    pairs = []
    for here, minhash in enumerate(minhashes):
        for there in sorted(index.query(minhash)):
            jaccard = minhash.jaccard(minhashes[there])
            if jaccard * permutations < _FEWEST_MINIMA:
                continue
            share = share_of(smallest[here], smallest[there])
            if share >= least:
                pairs.append(Pair(books[there], books[here], share, jaccard))
        index.insert(here, minhash)
    return pairs


def share_of(shorter: NDArray[np.uint64], longer: NDArray[np.uint64]) -> float:
    """The estimated share of the runs of one book that stand in another, from the smallest hashes
    of each.

    Up to the smaller of the two largest hashes kept both lists are complete: there a run of one
    book stands in the other or does not. 0 where so few are shared that it may be chance, unless
    both lists are complete to the end.
    """
    ends = [values[-1] for values in (shorter, longer) if len(values) == SMALLEST]
    if ends:
        end = min(ends)
        shorter, longer = (
            values[: np.searchsorted(values, end, side="right")] for values in (shorter, longer)
        )
    shared = len(np.intersect1d(shorter, longer, assume_unique=True))
    if not shared or (ends and shared < _FEWEST_SHARED):
        return 0.0
    return shared / len(shorter)


def groups(pairs: Sequence[Pair]) -> dict[str, str]:
    """For each book of a pair the first id among all that pairs join with it, directly or
    through others (union-find).
    """
    parent: dict[str, str] = {}

    def root(book: str) -> str:
        parent.setdefault(book, book)
        while parent[book] != book:
            parent[book] = parent[parent[book]]
            book = parent[book]
        return book

    for pair in pairs:
        first, second = sorted((root(pair.longer.book), root(pair.shorter.book)))
        parent[second] = first
    return {book: root(book) for book in sorted(parent)}


def copies(signatures: Sequence[Signature], pairs: Sequence[Pair], least: float) -> dict[str, Pair]:
    """The near copies by id, each with the pair that says so: at least `least` of it stands in a
    longer book that stays.

    The longest book of each kind stays, so no text is lost through a chain: a story inside a
    collection goes, the collection stays.
    """
    above: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.share >= least:
            above.setdefault(pair.shorter.book, []).append(pair)
    found: dict[str, Pair] = {}
    for item in by_length(signatures):
        staying = [pair for pair in above.get(item.book, []) if pair.longer.book not in found]
        if staying:
            found[item.book] = min(staying, key=lambda pair: (-pair.share, pair.longer.book))
    return found
