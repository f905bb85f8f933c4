"""The demo task of classification: whose prose is it?

The label is the author, or the book in a corpus without authors.
"""

from __future__ import annotations

import random
from collections import defaultdict

from gpt1.errors import UserError
from gpt1.tasks.demo_settings import FEWEST, Books, DemoSettings, example_name
from gpt1.tasks.example import Example
from gpt1.tasks.passages import Passage

MOST_LABELS = 8
ENOUGH = 40
"""With so many unseen passages of each label the number of labels is not cut for the sake of
more.
"""

Pools = dict[str, list[Passage]]
"""The passages of each label."""


def author_examples(
    known: Books, unseen: Books, settings: DemoSettings
) -> tuple[list[Example], list[Example], tuple[str, ...]]:
    """Training and dev examples, the same number of each label, and the labels.

    UserError with fewer than two labels.
    """
    with_authors = len({found[0].author for found in known.values()} - {None}) >= 2
    train, dev = _by_label(known, with_authors), _by_label(unseen, with_authors)
    labels = _choose_labels(train, dev, settings)
    return (
        _examples(train, labels, settings.train, settings.rng("demo_author/train")),
        _examples(dev, labels, settings.dev, settings.rng("demo_author/dev")), labels,
    )


def _by_label(books: Books, with_authors: bool) -> Pools:
    pools: Pools = defaultdict(list)
    for book, found in books.items():
        label = found[0].author if with_authors else book
        if label is not None:
            pools[label].extend(found)
    return pools


def _choose_labels(train: Pools, dev: Pools, settings: DemoSettings) -> tuple[str, ...]:
    """Of the labels with most text as many, 2 to 8, as have enough passages; where none have,
    those that give most examples.
    """
    shared = [label for label in train if label in dev]
    largest = sorted(shared, key=lambda label: (-len(train[label]), label))[:MOST_LABELS]

    def supply(pools: Pools, count: int) -> int:
        return count * min(len(pools[label]) for label in largest[:count])

    def worth(count: int) -> tuple[bool, int]:
        plenty = supply(dev, count) >= min(settings.dev, ENOUGH * count)
        return plenty, count if plenty else supply(dev, count)

    possible = [
        count
        for count in range(2, len(largest) + 1)
        if min(supply(train, count), supply(dev, count)) >= FEWEST
    ]
    if not possible:
        raise UserError(
            f"demo_author: {len(largest)} authors (books, in a corpus without authors) have both"
            f" training text and passages the model never saw; at least 2, with {FEWEST} such"
            " passages, are needed: add books, or raise `held_out_tail` (split)"
        )
    return tuple(sorted(largest[: max(possible, key=worth)]))


def _examples(
    pools: Pools, labels: tuple[str, ...], wanted: int, rng: random.Random
) -> list[Example]:
    each = min(wanted // len(labels), *(len(pools[label]) for label in labels))
    examples = [
        Example(example_name(passage), (passage.text,), label=number)
        for number, label in enumerate(labels)
        for passage in rng.sample(pools[label], each)
    ]
    rng.shuffle(examples)
    return examples
