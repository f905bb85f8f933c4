"""Which books share text, which are copies, which are held out, and where the unseen tail of a
training book begins; the tables in which signatures and decisions are kept.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from hashlib import blake2b, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpt1.corpus.document import Document, read_rows
from gpt1.errors import UserError

if TYPE_CHECKING:
    from datasketch import MinHash

# ---------------------------------------------------------------------------------------------
# Signatures, made from a book's words
#
# Line breaks, punctuation, quotes, capitals and underscores of emphasis are no words, so they
# change no signature. Every hash is a pure function of the text (blake2b of a word, then 64-bit
# arithmetic that wraps), the same on every platform and in every process.

SHINGLE = 5
"""Words in a run.

Two books by one author share some runs of five by chance, about one in a hundred at most.
"""
SMALLEST = 1024
"""How many of a book's smallest run hashes are kept: a share p of them is known to about sqrt(p
(1 - p) / 1024).
"""
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
    from datasketch import MinHash  # takes half a second, and readers of the table need none

    return MinHash(num_perm=permutations, seed=1, hashfunc=int, scheme="affine32")


# ---------------------------------------------------------------------------------------------
# Pairs of books that share text, found from signatures alone
#
# Books with an equal MinHash value for one permutation are compared. The estimate of the Jaccard
# similarity drops those with a single one, and the smallest run hashes say how much of the shorter
# book is in the longer. That share, not the Jaccard similarity, decides: it finds an edition
# without a chapter and a story inside a collection alike.


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

    A book of which at least `copy` is in a longer one is in no further pair: the longer book
    represents it, so the copies of one book cost their number, not its square. Books without a
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


# ---------------------------------------------------------------------------------------------
# The decision

Set = Literal["train", "held_out", "duplicate", "near_duplicate"]
SMALL = 200
"""Of fewer books the held-out number is exact; of as many or more each book is drawn, so that an
added book moves no other.
"""


@dataclass(frozen=True)
class SplitRow:
    """One row of split.parquet.

    `length` is the clean text's, in characters; `tail_start` is None but for training books.

    `group` is the first id among the books that share text with this one (its own when there are
    none): its hash decides the side. Of a copy, `copy_of` names the book that has its text, `share`
    says how much of it stands there, `jaccard` how alike they are.
    """

    book: str
    part: str
    set: Set
    tail_start: int | None
    length: int
    digest: str
    group: str
    copy_of: str | None
    share: float | None
    jaccard: float | None


@dataclass(frozen=True)
class NearRules:
    """Which share of a book, standing in a longer one, makes it a near copy (`copy`), or keeps
    the two on one side (`tie`).
    """

    copy: float
    tie: float


def tail_start(text: str, share: float) -> int | None:
    """Where the last `share` of a text begins: the first paragraph, else line, that starts at or
    after it; None for no tail.
    """
    if share <= 0:
        return None
    wanted = int(len(text) * (1 - share))
    for boundary in (r"\n[ \t]*\n\s*", r"\n"):
        found = re.compile(boundary).search(text, max(0, wanted - 1))
        if found and found.end() < len(text):
            return found.end()
    return None


def decide(
    signatures: Sequence[Signature], fraction: float, seed: int, near: NearRules | None = None
) -> list[SplitRow]:
    """A row for each book, ordered by id.

    Of books with the same words the first id stays, the others are duplicates; with `near`, a book
    that stands in a longer one is a near copy, and books that share text (a group) are all held out
    or all trained on. A group's draw is the hash of (seed, its first id). Of `SMALL` or more books
    the groups with a draw below `fraction` are held out: adding a book moves no other, unless it
    joins groups or has their first id. Of fewer, the smallest draws that bring the number of
    held-out books nearest to max(1, round(fraction x books)). At least one group is held out and
    one trains; UserError when there are too few for that.
    """
    ordered = sorted(signatures, key=lambda item: item.book)
    first: dict[str, str] = {}
    for item in ordered:
        first.setdefault(item.digest, item.book)
    unique = [item for item in ordered if first[item.digest] == item.book]
    pairs = list(sharing_pairs(unique, min(near.copy, near.tie), near.copy)) if near else []
    near_copies = copies(pairs, near.copy) if near else {}
    group = {item.book: item.book for item in unique} | groups(pairs)
    books = Counter(group[item.book] for item in unique if item.book not in near_copies)
    held_out = _held_out(books, len(unique), fraction, seed)
    return [_row(item, first[item.digest], group, near_copies, held_out) for item in ordered]


def _held_out(books: Counter[str], unique: int, fraction: float, seed: int) -> set[str]:
    """The groups that are held out.

    `books`: how many each has, near copies not counted; `unique`: all books, near copies too.
    """
    if unique < 2:
        raise UserError(
            f"split: found {unique} book{'s' if unique != 1 else ''} after cleaning and"
            " de-duplication; expected at least two, one to train on and one to hold out. Add"
            " books."
        )
    if len(books) < 2:
        raise UserError(
            f"split: found {unique} books that all share text with one another; expected at least"
            " two that do not, one to train on and one to hold out. Add books, remove what they"
            " share, raise `related_threshold` or turn off `near_duplicates`."
        )
    drawn = sorted(books, key=lambda name: (_draw(seed, name), name))
    total = books.total()
    if total < SMALL:
        return _nearest(drawn, books, max(1, round(fraction * total)))
    held_out = {name for name in drawn if _draw(seed, name) < fraction} or {drawn[0]}
    return held_out - {drawn[-1]} if len(held_out) == len(drawn) else held_out


def _nearest(drawn: Sequence[str], books: Counter[str], target: int) -> set[str]:
    """Some of the groups, not all, with the number of books nearest to `target`: of the first
    groups that can make it.
    """
    made: dict[int, tuple[str, ...]] = {0: ()}
    for name in drawn:
        made |= {
            number + books[name]: (*names, name)
            for number, names in made.items()
            if number + books[name] not in made
        }
    numbers = made.keys() - {0, books.total()}
    return set(made[min(numbers, key=lambda number: (abs(number - target), number))])


def _row(
    item: Signature, stays: str, group: Mapping[str, str], near: Mapping[str, Pair],
    held_out: set[str],
) -> SplitRow:
    chosen: Set = "held_out" if group[stays] in held_out else "train"
    copy_of, share, jaccard = None, None, None
    if stays != item.book:
        chosen, copy_of, share, jaccard = "duplicate", stays, 1.0, 1.0
    elif pair := near.get(item.book):
        chosen, copy_of = "near_duplicate", pair.longer.book
        share, jaccard = pair.share, pair.jaccard
    tail = item.tail_start if chosen == "train" else None
    return SplitRow(
        item.book, item.part, chosen, tail, item.length, item.digest, group[stays], copy_of, share,
        jaccard,
    )


def _draw(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on the seed and the id alone."""
    return int.from_bytes(sha256(f"{seed}:{name}".encode()).digest()[:8], "big") / 2**64


# ---------------------------------------------------------------------------------------------
# Tables

_TYPES = {"int": pa.int64(), "float": pa.float64(), "bytes": pa.binary()}


def _schema(row: type[SplitRow] | type[Signature]) -> pa.Schema:
    """A column for each field; text where it is not a number or bytes."""
    types = {field.name: str(field.type).split(" ")[0] for field in fields(row)}
    return pa.schema([(name, _TYPES.get(kind, pa.string())) for name, kind in types.items()])


SPLIT = _schema(SplitRow)
"""The columns of split.parquet."""
SIGNATURES = _schema(Signature)
"""The columns of a table of signatures."""


def read_split(path: Path) -> list[SplitRow]:
    """The rows of split.parquet, ordered by book."""
    return [SplitRow(**row) for row in read_rows(path)]


def books_by_part(
    path: Path, sets: Sequence[Set], train_fraction: float = 1.0
) -> defaultdict[str, list[list[str | int | None]]]:
    """Id, set and tail of the books in these sets by split.parquet, for each part (`part-0007`)
    in the order of their ids; nothing for a part without such books.

    Of the training books only `train_fraction`, at least one: those whose ids have the smallest
    hashes, so that a smaller fraction is a subset of a larger one.
    """
    parts: defaultdict[str, list[list[str | int | None]]] = defaultdict(list)
    rows = read_split(path)
    train = sorted((row.book for row in rows if row.set == "train"),
                   key=lambda book: _draw(0, f"train_fraction {book}"))  # fmt: skip
    unused = set(train[max(1, round(train_fraction * len(train))) :])
    for row in rows:
        if row.set in sets and row.book not in unused:
            parts[row.part].append([row.book, row.set, row.tail_start])
    return parts
