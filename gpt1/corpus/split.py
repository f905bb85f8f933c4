"""Which books are held out, which are copies, and where the unseen tail of a training book begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from gpt1.errors import UserError

Set = Literal["train", "held_out", "duplicate"]
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Signature:
    """What the split needs to know of a book: `digest` is that of its normalised text, `tail_start` a character offset or None."""

    book: str
    part: str
    digest: str
    length: int
    tail_start: int | None


@dataclass(frozen=True)
class SplitRow:
    """One row of split.parquet. `length` is the clean text's, in characters; `tail_start` is None but for training books."""

    book: str
    part: str
    set: Set
    tail_start: int | None
    length: int
    digest: str
    copy_of: str | None


def text_digest(text: str) -> str:
    """sha256 of the words alone, in lower case: copies that differ in line breaks, quotes or dashes are the same text."""
    return sha256(" ".join(_WORD.findall(text.lower())).encode()).hexdigest()


def tail_start(text: str, share: float) -> int | None:
    """Where the last `share` of a text begins: the first paragraph, else line, that starts at or after it; None for no tail."""
    if share <= 0:
        return None
    wanted = int(len(text) * (1 - share))
    for boundary in (r"\n[ \t]*\n\s*", r"\n"):
        found = re.compile(boundary).search(text, max(0, wanted - 1))
        if found and found.end() < len(text):
            return found.end()
    return None


def decide(signatures: Sequence[Signature], fraction: float, seed: int) -> list[SplitRow]:
    """A row for each book, ordered by id.

    Of books with the same normalised text the first id stays, the others are duplicates. A book is held out when the hash of
    (seed, id) lies below `fraction`: adding a book moves no other. At least one book is held out and one trains; UserError when
    there are too few for that.
    """
    first: dict[str, str] = {}
    for item in sorted(signatures, key=lambda item: item.book):
        first.setdefault(item.digest, item.book)
    unique = sorted((_draw(seed, book), book) for book in first.values())
    if len(unique) < 2:
        raise UserError(
            f"split: found {len(unique)} book{'s' if len(unique) != 1 else ''} after cleaning and de-duplication; "
            "expected at least two, one to train on and one to hold out. Give more books."
        )
    held_out = {book for draw, book in unique if draw < fraction} or {unique[0][1]}
    if len(held_out) == len(unique):
        held_out.remove(unique[-1][1])
    return [_row(item, first[item.digest], held_out) for item in sorted(signatures, key=lambda item: item.book)]


def _row(item: Signature, stays: str, held_out: set[str]) -> SplitRow:
    if stays != item.book:
        return SplitRow(item.book, item.part, "duplicate", None, item.length, item.digest, stays)
    if item.book in held_out:
        return SplitRow(item.book, item.part, "held_out", None, item.length, item.digest, None)
    return SplitRow(item.book, item.part, "train", item.tail_start, item.length, item.digest, None)


def _draw(seed: int, book: str) -> float:
    """A number in [0, 1) that depends on the seed and the book's id alone."""
    return int.from_bytes(sha256(f"{seed}:{book}".encode()).digest()[:8], "big") / 2**64
