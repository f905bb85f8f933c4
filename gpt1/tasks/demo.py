"""The demo tasks: made from the books themselves, one of each kind, so that no download is needed.

Training examples come from the text the model was pre-trained on. Dev examples come from text it
never saw: held-out books, and the tails of training books, which pre-training leaves out. Their
`group` says which, so that both are scored by themselves too.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, pairwise, zip_longest
from typing import Literal

from gpt1.errors import UserError
from gpt1.tasks.io import Example

FEWEST = 20
"""With fewer examples than this in train or dev a demo task is refused."""
MOST_LABELS = 8
ENOUGH = 40
"""With so many unseen passages of each label the number of labels of `demo_author` is not cut for
the sake of more.
"""


@dataclass(frozen=True)
class DemoSettings:
    """Examples wanted (fewer are made where the corpus has no more), words a passage (exactly),
    and the seed of every choice.
    """

    train: int
    dev: int
    words: int
    seed: int = 1

    def rng(self, purpose: str) -> random.Random:
        """Random choices for one purpose.

        A text seeds through SHA-512: the same on every machine.
        """
        return random.Random(f"{purpose}/{self.seed}")


SIZES = {
    "demo_choice": DemoSettings(2000, 1000, 16), "demo_entailment": DemoSettings(2400, 2000, 28),
    "demo_similarity": DemoSettings(1800, 1200, 28), "demo_author": DemoSettings(1500, 480, 40),
    "demo_reverse": DemoSettings(5000, 480, 6),
}
"""What is made where the settings do not say: a small model can learn it in about half a minute on
one core (dev/LOG.md).

Whether two texts belong together is the hardest for it: those tasks have many dev examples, so that
a small lead over chance still differs from luck.
"""


def book_of(example: Example) -> str:
    """The book of an example's first passage."""
    return example.id.rpartition("#")[0]


def example_name(passage: Passage) -> str:
    """The id of an example made from a passage."""
    return f"{passage.book}#{passage.index}"


# Cutting books into passages


@dataclass(frozen=True)
class Region:
    """Text of one book that is used for one purpose: the known part of a training book, its unseen
    tail, or all of a held-out book.
    """

    use: Literal["known", "tail", "held_out"]
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
        text = " ".join(found[index * words : (index + 1) * words])
        yield Passage(region.book, region.author, index, text)


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
Books = dict[str, list[Passage]]
"""The passages of each book."""


def following_pairs(found: list[Passage]) -> list[Pair]:
    """Neighbours in one book, each passage in one pair only."""
    pairs: list[Pair] = []
    for first, second in pairwise(found):
        free = not pairs or pairs[-1][1] is not first
        if free and first.book == second.book and second.index == first.index + 1:
            pairs.append((first, second))
    return pairs


def exchange_seconds(pairs: list[Pair], rng: random.Random) -> list[Passage]:
    """For each pair the second passage of another pair, of another book; every second passage is
    used exactly once.

    So wrong answers come from the same texts as right ones, and nothing in an answer alone tells
    which it is. No book may have more than half of the pairs: then a swap that ends a clash always
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


# The tasks


@dataclass(frozen=True)
class DemoTask:
    """What was made. `labels` are the classes (authors or books) of `demo_author`, else none."""

    train: list[Example]
    dev: list[Example]
    labels: tuple[str, ...]


DEV_FROM = "unseen text"
Maker = Callable[[Books, int, random.Random], list[Example]]


def make_demo_task(name: str, regions: Sequence[Region], settings: DemoSettings) -> DemoTask:
    """The demo task called `name`. UserError where the corpus is too small for it."""
    seen: set[str] = set()
    known, held_out, tails = (
        _by_book([region for region in regions if region.use == use], settings.words, seen)
        for use in ("known", "held_out", "tail")
    )
    unseen = {**held_out, **tails}
    labels: tuple[str, ...] = ()
    if name == "demo_author":
        train, dev, labels = _author_examples(known, unseen, settings)
    else:
        maker = _MAKERS[name]
        train = maker(known, settings.train, settings.rng(f"{name}/train"))
        dev = maker(unseen, settings.dev, settings.rng(f"{name}/dev"))
        _refuse_small(name, train, dev)
    grouped = [
        replace(example, group="held_out" if book_of(example) in held_out else "tail")
        for example in dev
    ]
    return DemoTask(train, grouped, labels)


def _by_book(regions: Sequence[Region], words: int, seen: set[str]) -> Books:
    in_order = sorted(regions, key=lambda region: region.book)
    found = {region.book: list(distinct(passages(region, words), seen)) for region in in_order}
    return {book: its for book, its in found.items() if its}


def _refuse_small(name: str, train: list[Example], dev: list[Example]) -> None:
    for split, examples, source in (("training", train, "training"), ("dev", dev, "unseen")):
        if len(examples) < FEWEST:
            raise UserError(
                f"{name}: the corpus gives {len(examples)} {split} examples, expected at least"
                f" {FEWEST} from the {source} text of two or more books: add books, raise"
                " `held_out_tail` (split), or lower `passage_words`"
            )


def _draw_pairs(books: Books, wanted: int, rng: random.Random) -> list[Pair]:
    """At most `wanted` pairs of neighbors, taken from all books in turn; none gives more than half,
    which `exchange_seconds` needs.
    """
    in_books = [following_pairs(found) for found in books.values()]
    queues = [rng.sample(pairs, len(pairs)) for pairs in in_books if pairs]
    taken: list[Pair] = []
    while queues and len(taken) < wanted:
        taken.extend([queue.pop() for queue in queues][: wanted - len(taken)])
        queues = [queue for queue in queues if queue]
    return _no_majority(taken)


def _no_majority(pairs: list[Pair]) -> list[Pair]:
    counts = Counter(first.book for first, _ in pairs)
    if not counts:
        return []
    largest, count = counts.most_common(1)[0]
    surplus = max(0, 2 * count - len(pairs))
    kept = []
    for pair in pairs:
        if surplus and pair[0].book == largest:
            surplus -= 1
            continue
        kept.append(pair)
    return kept


def _choice(books: Books, wanted: int, rng: random.Random) -> list[Example]:
    """Which of two passages comes next; the wrong one is another question's right one."""
    pairs = _draw_pairs(books, wanted, rng)
    rng.shuffle(pairs)
    examples = []
    wrongs = exchange_seconds(pairs, rng)
    for number, ((first, second), wrong) in enumerate(zip(pairs, wrongs, strict=True)):
        right = number % 2  # of shuffled pairs: each position is right half of the time
        choices = (wrong.text, second.text) if right else (second.text, wrong.text)
        examples.append(Example(example_name(first), (first.text,), choices, right))
    return examples


def _pairs(books: Books, wanted: int, rng: random.Random, *, true: int) -> list[Example]:
    """Half of the pairs as they are (label `true`), half with second passages exchanged among
    themselves.
    """
    # Alternate pairs of each book, so that both halves hold the same books.
    pairs = _draw_pairs(books, wanted, rng)
    pairs.sort(key=lambda pair: (pair[0].book, pair[0].index))
    kept, to_exchange = pairs[::2], _no_majority(pairs[1::2])
    kept = rng.sample(kept, min(len(kept), len(to_exchange)))
    rows = [(first, second, true) for first, second in kept]
    others = exchange_seconds(to_exchange, rng)
    rows += [
        (first, other, 1 - true) for (first, _), other in zip(to_exchange, others, strict=True)
    ]
    rng.shuffle(rows)
    return [
        Example(example_name(first), (first.text, second.text), label=label)
        for first, second, label in rows
    ]


def _reverse(books: Books, wanted: int, rng: random.Random) -> list[Example]:
    """The words of a passage in reverse order; the text to generate is the passage."""
    queues = [rng.sample(found, len(found)) for found in books.values()]
    in_turn = chain.from_iterable(zip_longest(*queues))
    chosen = list(islice(filter(None, in_turn), wanted))
    rng.shuffle(chosen)
    return [
        Example(example_name(one), (" ".join(reversed(one.text.split())),), label=one.text)
        for one in chosen
    ]


_MAKERS: dict[str, Maker] = {
    "demo_choice": _choice,
    "demo_entailment": partial(_pairs, true=0),
    # Neighbors too: further apart, two passages of a novel have too little in common for a model
    # of a few minutes' training.
    "demo_similarity": partial(_pairs, true=1),
    "demo_reverse": _reverse,
}


# demo_author: whose prose is it? The label is the author, or the book where none is known


Pools = dict[str, list[Passage]]
"""The passages of each label."""


def _author_examples(
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
