"""The four demo tasks: made from the books themselves, one of each kind, so that no download is
needed.

Training examples come from the text the model was pre-trained on. Dev examples come from text it
never saw: held-out books, and the tails of training books, which pre-training leaves out. Their
`group` says which, so that both are scored by themselves too.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gpt1.errors import UserError
from gpt1.tasks.demo_author import author_examples
from gpt1.tasks.demo_settings import FEWEST, Books, DemoSettings, book_of, example_name
from gpt1.tasks.example import Example
from gpt1.tasks.passages import (
    Pair,
    Passage,
    Region,
    distinct,
    exchanged,
    following_pairs,
    passages,
)


@dataclass(frozen=True)
class DemoBooks:
    """The corpus as the demo tasks see it: the known part of training books, their unseen tails,
    and the held-out books.
    """

    known: Sequence[Region]
    tails: Sequence[Region]
    held_out: Sequence[Region]


@dataclass(frozen=True)
class DemoTask:
    """What was made. `labels` are the classes (authors or books) of `demo_author`, else none."""

    train: list[Example]
    dev: list[Example]
    labels: tuple[str, ...]


DEV_FROM = "unseen text"
Maker = Callable[[Books, int, random.Random], list[Example]]


def make_demo_task(name: str, books: DemoBooks, settings: DemoSettings) -> DemoTask:
    """The demo task called `name`. UserError where the corpus is too small for it."""
    seen: set[str] = set()
    known = _by_book(books.known, settings.words, seen)
    held_out = _by_book(books.held_out, settings.words, seen)
    tails = _by_book(books.tails, settings.words, seen)
    unseen = {**held_out, **tails}
    labels: tuple[str, ...] = ()
    if name == "demo_author":
        train, dev, labels = author_examples(known, unseen, settings)
    else:
        maker = _PAIR_TASKS[name]
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


def _round_robin(books: dict[str, list[Pair]], wanted: int, rng: random.Random) -> list[Pair]:
    """At most `wanted` pairs, taken from all books in turn; none gives more than half, which
    `exchanged` needs.
    """
    queues = [rng.sample(pairs, len(pairs)) for pairs in books.values() if pairs]
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
    pairs = _round_robin(
        {book: following_pairs(found) for book, found in books.items()}, wanted, rng
    )
    rng.shuffle(pairs)
    examples = []
    for number, ((first, second), wrong) in enumerate(
        zip(pairs, exchanged(pairs, rng), strict=True)
    ):
        right = (
            number % 2
        )  # the pairs were shuffled: each position is right half of the time, in no order
        choices = (wrong.text, second.text) if right else (second.text, wrong.text)
        examples.append(Example(example_name(first), (first.text,), choices, right))
    return examples


def _pairs_task(make_pairs: Callable[[list[Passage]], list[Pair]], true: int) -> Maker:
    """Half of the pairs as they are (label `true`), half with second passages exchanged among
    themselves.
    """

    def make(books: Books, wanted: int, rng: random.Random) -> list[Example]:
        pairs = _round_robin(
            {book: make_pairs(found) for book, found in books.items()}, wanted, rng
        )
        # Alternate pairs of each book, so that both halves hold the same books.
        pairs.sort(key=lambda pair: (pair[0].book, pair[0].index))
        kept, to_exchange = pairs[::2], _no_majority(pairs[1::2])
        kept = rng.sample(kept, min(len(kept), len(to_exchange)))
        rows = [(first, second, true) for first, second in kept]
        rows += [
            (first, other, 1 - true)
            for (first, _), other in zip(to_exchange, exchanged(to_exchange, rng), strict=True)
        ]
        rng.shuffle(rows)
        return [
            Example(example_name(first), (first.text, second.text), label=label)
            for first, second, label in rows
        ]

    return make


_PAIR_TASKS: dict[str, Maker] = {
    "demo_choice": _choice,
    "demo_entailment": _pairs_task(following_pairs, true=0),
    # Neighbours too: further apart, two passages of a novel have too little in common for a model
    # of a few minutes' training.
    "demo_similarity": _pairs_task(following_pairs, true=1),
}
