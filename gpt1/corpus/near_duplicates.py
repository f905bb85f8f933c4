"""Which books share text: signatures made from a book's words, and pairs found from them alone.

Line breaks, punctuation, quotes, capitals and underscores of emphasis are no words, so they change
no signature. Every hash is a pure function of the text (blake2b of a word, then 64-bit arithmetic
that wraps), the same on every platform and in every process.

Books with an equal MinHash value for one permutation are compared. The estimate of the Jaccard
similarity drops those with a single one, and the smallest run hashes say how much of the shorter
book is in the longer. That share, not the Jaccard similarity, decides: it finds an edition
without a chapter and a story inside a collection alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b, sha256

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

from gpt1.corpus.document import Document

SHINGLE = 5
"""Words in a run.

Two books by one author share some runs of five by chance, about one in a hundred at most.
"""
SMALLEST = 1024
"""How many of a book's smallest run hashes are kept: a share p of them is known to about sqrt(p
(1 - p) / 1024).
"""
_SEED = 1
_SCHEME = "affine32"
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_AT_ONCE = 4096
_WORD = re.compile(r"\w+")
_FEWEST_MINIMA = 2
_FEWEST_SHARED = 8
"""A share of fewer sampled runs than this can be chance: common phrases, of which a long book
has many.
"""
_LARGEST_BUCKET = 16
"""Most books that are looked up by one MinHash value. The longest of them stand for all that share
the run of words behind it, so many books with one text in common cost no more than their number.
"""


@dataclass(frozen=True)
class Signature:
    """What the split needs to know of a book.

    `length` counts characters, `tail_start` is a character offset or None, `digest` is that of the
    words. `minhash` holds datasketch's minimum for each permutation (32 bits, little-endian),
    `smallest` the smallest distinct 64-bit hashes of the runs of SHINGLE words, up to SMALLEST of
    them, ascending, little-endian; both are empty where near copies are not looked for.
    """

    book: str
    part: str
    form: str
    digest: str
    words: int
    length: int
    tail_start: int | None
    minhash: bytes = b""
    smallest: bytes = b""


class WordHashes(dict[str, int]):
    """64-bit hashes of words, each computed once: the first eight bytes of its blake2b."""

    def __missing__(self, word: str) -> int:
        value = self[word] = int.from_bytes(
            blake2b(word.encode(), digest_size=8).digest(), "little"
        )
        return value


def sign(
    book: Document, part: str, tail_start: int | None, permutations: int, hashes: WordHashes
) -> Signature:
    """The signature of one book; with no `permutations`, or of a stretch of sentences, without
    what near copies are found by.
    """
    words = words_of(book.text)
    minhash = smallest = b""
    if permutations and book.form == "book":
        runs = run_hashes(words, hashes)
        minhash = _minima(runs, permutations)
        smallest = runs[:SMALLEST].astype("<u8").tobytes()
    digest = sha256(" ".join(words).encode()).hexdigest()
    return Signature(
        book.id, part, book.form, digest, len(words), len(book.text), tail_start, minhash, smallest
    )


def words_of(text: str) -> list[str]:
    """The runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower().replace("_", " "))


def run_hashes(words: Sequence[str], hashes: WordHashes) -> NDArray[np.uint64]:
    """The distinct hashes of all runs of SHINGLE words, ascending; a shorter text is one run, an
    empty one has none.
    """
    values = np.fromiter(map(hashes.__getitem__, words), dtype=np.uint64, count=len(words))
    size = min(SHINGLE, len(values))
    if not size:
        return values
    combined = np.zeros(len(values) - size + 1, dtype=np.uint64)
    for offset in range(size):
        combined *= _MULTIPLIER
        combined += values[offset : offset + len(combined)]
    # The finalizer of MurmurHash3: every bit of the sum moves every bit of the hash, so that the
    # smallest are a fair sample.
    for multiplier in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        combined ^= combined >> np.uint64(33)
        combined *= multiplier
    combined ^= combined >> np.uint64(33)
    return np.unique(combined)


def _minima(runs: NDArray[np.uint64], permutations: int) -> bytes:
    """datasketch's MinHash of a set of hashes; it gets the upper half of each, in batches that
    fit into a core's cache.
    """
    minhash = _empty_minhash(permutations).copy()
    values = (runs >> np.uint64(32)).tolist()
    for start in range(0, len(values), _AT_ONCE):
        minhash.update_batch(values[start : start + _AT_ONCE])
    return minhash.hashvalues.astype("<u4").tobytes()


@cache
def _empty_minhash(permutations: int) -> MinHash:
    return MinHash(num_perm=permutations, seed=_SEED, hashfunc=int, scheme=_SCHEME)


@dataclass(frozen=True)
class Pair:
    """Two books that share text: `share` of the runs of five words of `shorter` stand in `longer`;
    `jaccard` is the share of their MinHash values that are equal.
    """

    longer: Signature
    shorter: Signature
    share: float
    jaccard: float


def sharing_pairs(
    signatures: Sequence[Signature], least: float, copy: float = 2.0
) -> Iterator[Pair]:
    """The pairs of which at least the share `least` of the shorter book is in the longer,
    ordered by length and id (the longest first; of equally long books the first id).

    A book of which at least `copy` stands in a longer one is in no further pair: its longer book
    stands for it, so the copies of one book cost their number, not its square. Books without a
    MinHash are not compared. The signatures must have one number of permutations.
    """
    buckets: dict[tuple[int, int], list[int]] = {}
    books = [item for item in signatures if item.minhash]
    books.sort(key=lambda item: (-item.words, item.book))
    minima = [np.frombuffer(item.minhash, dtype="<u4") for item in books]
    smallest = [np.frombuffer(item.smallest, dtype="<u8") for item in books]
    for here, book in enumerate(books):
        keys = list(enumerate(minima[here].tolist()))
        is_copy = False
        for there in sorted({one for key in keys for one in buckets.get(key, ())}):
            equal = np.count_nonzero(minima[here] == minima[there])
            share = share_of(smallest[here], smallest[there]) if equal >= _FEWEST_MINIMA else 0.0
            if equal >= _FEWEST_MINIMA and share >= least:
                yield Pair(books[there], book, share, float(equal) / len(keys))
                is_copy |= share >= copy
        for key in () if is_copy else keys:
            bucket = buckets.setdefault(key, [])
            if len(bucket) < _LARGEST_BUCKET:
                bucket.append(here)


def share_of(shorter: NDArray[np.uint64], longer: NDArray[np.uint64]) -> float:
    """The estimated share of the runs of one book that stand in another, from the smallest hashes
    of each.

    Up to the smaller of the two largest hashes kept both lists are complete: there a run of one
    book is in the other or is not. 0 where so few are shared that it may be chance, unless
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


def copies(pairs: Sequence[Pair], least: float) -> dict[str, Pair]:
    """The near copies by id, each with the pair that says so: at least `least` of it is in a
    longer book that stays. `pairs` are those of `sharing_pairs` with `copy=least`.

    The longest book of each kind stays, so no text is lost through a chain: a story inside a
    collection goes, the collection stays.
    """
    found: dict[str, Pair] = {}
    for pair in sorted(pairs, key=lambda pair: (-pair.share, pair.longer.book)):
        if pair.share >= least:
            found.setdefault(pair.shorter.book, pair)
    return found
