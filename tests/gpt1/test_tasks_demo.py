"""The demo tasks: balanced, without leaks, the same every time, on any corpus of a few books."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from gpt1.errors import UserError
from gpt1.tasks.demo import DemoBooks, DemoTask, make_demo_task
from gpt1.tasks.demo_settings import DemoSettings
from gpt1.tasks.example import Example
from gpt1.tasks.passages import Passage, Region, distinct, exchanged, passages

NAMES = ("demo_choice", "demo_entailment", "demo_similarity", "demo_author")
WANTED = DemoSettings(train=120, dev=60, words=12, seed=3)


def text_of(book: str, sentences: int) -> str:
    rng = random.Random(book)
    lines = [" ".join(f"{book}{rng.randrange(400)}" for _ in range(7)) + "." for _ in range(sentences)]
    return "\n\n".join(" ".join(lines[start : start + 5]) for start in range(0, sentences, 5))


def corpus(train: int = 6, held_out: int = 3, authors: bool = True, sentences: int = 200) -> DemoBooks:
    def author(number: int) -> str | None:
        return f"author {number % 3}" if authors else None

    known = [Region(f"b{n}", author(n), text_of(f"b{n}x", sentences)) for n in range(train)]
    tails = [Region(f"b{n}", author(n), text_of(f"b{n}y", 60)) for n in range(train)]
    unseen = [Region(f"h{n}", author(n), text_of(f"h{n}x", sentences)) for n in range(held_out)]
    return DemoBooks(known, tails, unseen)


def texts(examples: list[Example]) -> set[str]:
    return {text for example in examples for text in (*example.texts, *example.choices)}


def made(name: str, books: DemoBooks | None = None) -> DemoTask:
    return make_demo_task(name, books or corpus(), WANTED)


@pytest.mark.parametrize("name", NAMES)
def test_enough_balanced_and_disjoint(name: str) -> None:
    task = made(name)
    for examples, wanted in ((task.train, WANTED.train), (task.dev, WANTED.dev)):
        assert wanted * 0.8 <= len(examples) <= wanted
        counts = Counter(example.label for example in examples)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(counts) == max(2, len(task.labels))
    assert texts(task.train) & texts(task.dev) == set()
    assert {example.group for example in task.dev} <= {"held_out", "tail"}


@pytest.mark.parametrize("name", NAMES)
def test_the_same_every_time_and_another_with_another_seed(name: str) -> None:
    assert made(name) == made(name)
    other = make_demo_task(name, corpus(), DemoSettings(WANTED.train, WANTED.dev, WANTED.words, seed=4))
    assert other.train != made(name).train


def book_of(text: str) -> str:
    return text.split("x")[0].split("y")[0]


def test_choice_is_told_by_the_context_alone() -> None:
    task = made("demo_choice")
    for examples in (task.train, task.dev):
        right, wrong = Counter[str](), Counter[str]()
        for example in examples:
            assert book_of(example.choices[int(example.label or 0)]) == book_of(example.texts[0])
            assert book_of(example.choices[1 - int(example.label or 0)]) != book_of(example.texts[0])
            right[example.choices[int(example.label or 0)]] += 1
            wrong[example.choices[1 - int(example.label or 0)]] += 1
        # every answer is right once and wrong once
        assert right == wrong


@pytest.mark.parametrize(("name", "true"), [("demo_entailment", 0), ("demo_similarity", 1)])
def test_pairs_are_of_one_book_where_the_label_says_so(name: str, true: int) -> None:
    for example in made(name).train:
        first, second = map(book_of, example.texts)
        assert (first == second) == (example.label == true)


def test_what_follows_follows() -> None:
    books = corpus()
    neighbours = {
        (a.text, b.text)
        for region in (*books.known, *books.tails, *books.held_out)
        for a, b in pairwise(passages(region, WANTED.words))
    }
    task = made("demo_entailment", books)
    assert all(((e.texts[0], e.texts[1]) in neighbours) == (e.label == 0) for e in task.train + task.dev)
    task = made("demo_choice", books)
    assert all((e.texts[0], e.choices[int(e.label or 0)]) in neighbours for e in task.train + task.dev)


def test_authors_are_scored_on_passages_never_seen() -> None:
    books = corpus()
    task = made("demo_author", books)
    assert task.labels == ("author 0", "author 1", "author 2")
    known = " ".join(" ".join(region.text.split()) for region in books.known)
    assert all(example.texts[0] not in known for example in task.dev)


def test_without_authors_the_label_is_the_book() -> None:
    task = made("demo_author", corpus(train=10, authors=False))
    assert len(task.labels) == 8
    assert set(task.labels) < {f"b{n}" for n in range(10)}
    assert {example.group for example in task.dev} == {"tail"}


def test_small_corpora_are_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"0 dev examples; at least 20 are needed.*add books"):
        make_demo_task("demo_choice", DemoBooks(corpus().known, [], corpus(held_out=1).held_out), WANTED)
    with pytest.raises(UserError, match=r"1 authors \(books, in a corpus without authors\)"):
        make_demo_task("demo_author", corpus(train=1, held_out=1, authors=False), WANTED)


def test_one_large_book_among_small_ones() -> None:
    small = corpus(train=3)
    large = Region("b9", "author 9", text_of("b9x", 4000))
    task = made("demo_choice", DemoBooks([*small.known, large], small.tails, small.held_out))
    assert max(Counter(example.id.split("#")[0] for example in task.train).values()) * 2 <= len(task.train)


def test_passages_follow_one_another_and_have_one_length() -> None:
    text = 'One two three.\n\n"Four five   six!" she said. Seven eight.'
    found = list(passages(Region("b", None, text), 4))
    assert [passage.text for passage in found] == ['One two three. "Four', 'five six!" she said.']
    assert [passage.index for passage in found] == [0, 1]


def test_repeated_text_is_left_out() -> None:
    seen: set[str] = set()
    twice = [Passage("a", None, 0, "The same, again."), Passage("b", None, 5, "the SAME again")]
    assert list(distinct(twice, seen)) == twice[:1]
    assert list(distinct(twice, seen)) == []


@pytest.mark.parametrize("counts", [(5, 5), (1, 1), (3, 2, 1), (4, 3, 1), (10, 9, 1), (2, 2, 2, 2)])
def test_exchanging_never_stays_in_the_book(counts: tuple[int, ...]) -> None:
    for seed in range(50):
        pairs = [
            (Passage(str(book), None, 2 * n, "first"), Passage(str(book), None, 2 * n + 1, f"{book} {n}"))
            for book, count in enumerate(counts)
            for n in range(count)
        ]
        others = exchanged(pairs, random.Random(seed))
        assert all(first.book != other.book for (first, _), other in zip(pairs, others, strict=True))
        assert Counter(other.text for other in others) == Counter(second.text for _, second in pairs)
