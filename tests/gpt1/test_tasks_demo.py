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
from gpt1.tasks.passages import Region, passages

WANTED = DemoSettings(train=120, dev=60, words=12, seed=3)


def text_of(book: str, sentences: int) -> str:
    """Sentences of words that begin with the book's name."""
    rng = random.Random(book)
    made = [
        " ".join(f"{book}{rng.randrange(400)}" for _ in range(7)) + "." for _ in range(sentences)
    ]
    return "\n\n".join(" ".join(made[start : start + 5]) for start in range(0, sentences, 5))


def corpus(train: int = 6, held_out: int = 3, authors: bool = True) -> DemoBooks:
    def region(name: str, number: int, part: str, sentences: int) -> Region:
        author = f"author {number % 3}" if authors else None
        return Region(f"{name}{number}", author, text_of(f"{name}{number}{part}", sentences))

    return DemoBooks(
        known=[region("b", n, "x", 200) for n in range(train)],
        tails=[region("b", n, "y", 60) for n in range(train)],
        held_out=[region("h", n, "x", 200) for n in range(held_out)],
    )


def made(name: str, books: DemoBooks | None = None, seed: int = 3) -> DemoTask:
    settings = DemoSettings(WANTED.train, WANTED.dev, WANTED.words, seed)
    return make_demo_task(name, books or corpus(), settings)


def texts(examples: list[Example]) -> set[str]:
    return {text for example in examples for text in (*example.texts, *example.choices)}


@pytest.mark.parametrize(
    "name", ["demo_choice", "demo_entailment", "demo_similarity", "demo_author"]
)
def test_enough_balanced_disjoint_and_drawn_by_seed(name: str) -> None:
    task = made(name)
    for examples, wanted in ((task.train, WANTED.train), (task.dev, WANTED.dev)):
        assert wanted * 0.8 <= len(examples) <= wanted
        counts = Counter(example.label for example in examples)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(counts) == max(2, len(task.labels))
    assert texts(task.train) & texts(task.dev) == set()
    assert {example.group for example in task.dev} <= {"held_out", "tail"}
    assert made(name) == task
    assert made(name, seed=4).train != task.train


def book_of(text: str) -> str:
    return text.split("x")[0].split("y")[0]


def test_a_choice_cannot_be_made_without_the_context() -> None:
    task = made("demo_choice")
    for examples in (task.train, task.dev):
        right, wrong = Counter[str](), Counter[str]()
        for example in examples:
            answer, other = example.choices[:: 1 if example.label == 0 else -1]
            assert book_of(answer) == book_of(example.texts[0]) != book_of(other)
            right[answer] += 1
            wrong[other] += 1
        assert right == wrong  # every answer is right once and wrong once


@pytest.mark.parametrize(("name", "true"), [("demo_entailment", 0), ("demo_similarity", 1)])
def test_pairs_are_of_one_book_where_the_label_says_so(name: str, true: int) -> None:
    for example in made(name).train:
        first, second = map(book_of, example.texts)
        assert (first == second) == (example.label == true)


def test_what_is_called_following_follows() -> None:
    books = corpus()
    neighbors = {
        (one.text, next_one.text)
        for region in (*books.known, *books.tails, *books.held_out)
        for one, next_one in pairwise(passages(region, WANTED.words))
    }
    task = made("demo_entailment", books)
    assert all(((e.texts[0], e.texts[1]) in neighbors) == (e.label == 0) for e in task.train)
    task = made("demo_choice", books)
    assert all((e.texts[0], e.choices[int(e.label or 0)]) in neighbors for e in task.dev)


def test_authors_or_else_books_are_named_and_scored_on_passages_never_seen() -> None:
    books = corpus()
    task = made("demo_author", books)
    assert task.labels == ("author 0", "author 1", "author 2")
    known = " ".join(" ".join(region.text.split()) for region in books.known)
    assert all(example.texts[0] not in known for example in task.dev)
    task = made("demo_author", corpus(train=10, authors=False))
    assert len(task.labels) == 8
    assert set(task.labels) < {f"b{n}" for n in range(10)}
    assert {example.group for example in task.dev} == {"tail"}


def test_small_corpora_are_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"0 dev examples; at least 20 are needed.*add books"):
        made("demo_choice", DemoBooks(corpus().known, [], corpus(held_out=1).held_out))
    with pytest.raises(UserError, match=r"1 authors \(books, in a corpus without authors\)"):
        made("demo_author", corpus(train=1, held_out=1, authors=False))


def test_one_large_book_gives_at_most_half() -> None:
    small = corpus(train=3)
    large = Region("b9", "author 9", text_of("b9x", 4000))
    task = made("demo_choice", DemoBooks([*small.known, large], small.tails, small.held_out))
    largest = max(Counter(example.id.split("#")[0] for example in task.train).values())
    assert largest * 2 <= len(task.train)


def test_repeated_passages_are_left_out() -> None:
    books = corpus()
    again = [Region(f"c{n}", one.author, one.text.upper()) for n, one in enumerate(books.known)]
    twice = DemoBooks([*books.known, *again], books.tails, books.held_out)
    assert made("demo_entailment", twice).train == made("demo_entailment", books).train
