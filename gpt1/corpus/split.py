"""Which books are held out, which are copies, and where the unseen tail of a training book
begins; the tables in which signatures and decisions are kept.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Literal

import pyarrow as pa

from gpt1.corpus.document import read_rows
from gpt1.corpus.near_duplicates import Pair, Signature, copies, groups, sharing_pairs
from gpt1.errors import UserError

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


def split_by_part(path: Path) -> dict[str, list[SplitRow]]:
    """The rows of split.parquet by part (`part-0007`), ordered by book."""
    parts: dict[str, list[SplitRow]] = {}
    for row in read_split(path):
        parts.setdefault(row.part, []).append(row)
    return parts
