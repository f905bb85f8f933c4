"""Cutting books into passages: the raw material of the demo tasks."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Region:
    """Text of one book that is used for one purpose: its known part, its unseen tail, or all of
    a held-out book.
    """

    book: str
    author: str | None
    text: str


@dataclass(frozen=True)
class Passage:
    """Some consecutive words of a book; `index` counts the region's passages, so that index + 1
    comes next.
    """

    book: str
    author: str | None
    index: int
    text: str


def passages(region: Region, words: int) -> Iterator[Passage]:
    """Consecutive passages of exactly `words` words, one line each; what is left at the end is
    dropped.

    They are cut wherever the count ends: length tells nothing, and what comes next is also how a
    broken sentence goes on, which a language model can judge without fine-tuning.
    """
    found = region.text.split()
    for index in range(len(found) // words):
        yield Passage(
            region.book, region.author, index, " ".join(found[index * words : (index + 1) * words])
        )


def distinct(found: Iterable[Passage], seen: set[str]) -> Iterator[Passage]:
    """The passages whose words are not in `seen` yet; adds them.

    Keeps repeated text from standing in train and dev.
    """
    for passage in found:
        key = " ".join(re.findall(r"\w+", passage.text.lower()))
        if key not in seen:
            seen.add(key)
            yield passage


Pair = tuple[Passage, Passage]


def following_pairs(found: list[Passage]) -> list[Pair]:
    """Neighbours in one book, each passage in one pair only."""
    pairs: list[Pair] = []
    for first, second in pairwise(found):
        free = not pairs or pairs[-1][1] is not first
        if free and first.book == second.book and second.index == first.index + 1:
            pairs.append((first, second))
    return pairs


def exchanged(pairs: list[Pair], rng: random.Random) -> list[Passage]:
    """For each pair the second passage of another pair, of another book; every second passage is
    used exactly once.

    So wrong answers come from the same texts as right ones, and nothing in an answer alone tells
    which it is. No book may have more than half of the pairs: then a swap that mends a clash always
    exists (at most 2c - 1 < n positions are barred for a book of c).
    """
    partner = list(range(len(pairs)))
    rng.shuffle(partner)

    def clashes(at: int, other: int) -> bool:
        return pairs[at][0].book == pairs[other][1].book

    for at in range(len(pairs)):
        if not clashes(at, partner[at]):
            continue
        offset = rng.randrange(len(pairs))
        around = ((offset + step) % len(pairs) for step in range(len(pairs)))
        swap = next(
            j for j in around if not clashes(at, partner[j]) and not clashes(j, partner[at])
        )
        partner[at], partner[swap] = partner[swap], partner[at]
    return [pairs[other][1] for other in partner]
