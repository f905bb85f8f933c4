"""The signature of a book: what is compared to find its copies, made from its words alone.

Line breaks, punctuation, quotes, capitals and underscores of emphasis are no words, so they change
no signature. Every hash is a pure function of the text (blake2b of a word, then 64-bit arithmetic
that wraps), the same on every platform and in every process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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
        minhash = minima(runs, permutations)
        smallest = runs[:SMALLEST].astype("<u8").tobytes()
    digest = text_digest(words)
    return Signature(
        book.id, part, book.form, digest, len(words), len(book.text), tail_start, minhash, smallest
    )


def words_of(text: str) -> list[str]:
    """The runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower().replace("_", " "))


def text_digest(words: Sequence[str]) -> str:
    """sha256 of the words: texts with the same words in the same order are exact copies."""
    return sha256(" ".join(words).encode()).hexdigest()


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
    return np.unique(_mixed(combined))


def minima(runs: NDArray[np.uint64], permutations: int) -> bytes:
    """datasketch's MinHash of a set of hashes; it gets the upper half of each, in batches that
    fit into a core's cache.
    """
    minhash = _empty(permutations).copy()
    values = (runs >> np.uint64(32)).tolist()
    for start in range(0, len(values), _AT_ONCE):
        minhash.update_batch(values[start : start + _AT_ONCE])
    return minhash.hashvalues.astype("<u4").tobytes()


def minhash_of(signature: Signature) -> MinHash:
    """datasketch's object again, for its index and its estimate of the Jaccard similarity."""
    values = np.frombuffer(signature.minhash, dtype="<u4")
    return MinHash(
        hashvalues=values, permutations=_empty(len(values)).permutations, seed=_SEED, scheme=_SCHEME
    )


@cache
def _empty(permutations: int) -> MinHash:
    return MinHash(num_perm=permutations, seed=_SEED, hashfunc=_as_it_is, scheme=_SCHEME)


def _as_it_is(value: int) -> int:
    return value


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of MurmurHash3: every bit of the sum moves every bit of the hash, so that
    the smallest are a fair sample.
    """
    for multiplier in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        values ^= values >> np.uint64(33)
        values *= multiplier
    values ^= values >> np.uint64(33)
    return values
