"""The demo tasks: balanced, without leaks, the same every time, on any corpus of a few books."""

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.tasks.demo import DemoSettings, DemoTask, Region, make_demo_task, passages
from gpt1.tasks.io import Example
from gpt1.tasks.registry import DEMO_TASKS

WANTED = DemoSettings(train=120, dev=60, words=12, seed=3)


def corpus(train: int = 6, held_out: int = 3, authors: bool = True) -> list[Region]:
    """Sentences of words that begin with the book's name."""

    def region(use: Any, name: str, number: int, part: str, paragraphs: int) -> Region:
        book, author = f"{name}{number}", f"author {number % 3}" if authors else None
        rng = random.Random(book + part)
        words = [f"{book}{part}{rng.randrange(400)}" for _ in range(35 * paragraphs)]
        ends = {6: ".", 34: ".\n\n"}
        text = (word + ends.get(n % 35, ends.get(n % 7, "")) for n, word in enumerate(words))
        return Region(use, book, author, " ".join(text))

    return [
        *(region("known", "b", n, "x", 40) for n in range(train)),
        *(region("tail", "b", n, "y", 12) for n in range(train)),
        *(region("held_out", "h", n, "x", 40) for n in range(held_out)),
    ]


def made(name: str, books: list[Region] | None = None, seed: int = 3) -> DemoTask:
    return make_demo_task(name, books or corpus(), replace(WANTED, seed=seed))


def texts(examples: list[Example]) -> set[str]:
    return {text for example in examples for text in (*example.texts, *example.choices)}


@pytest.mark.parametrize("name", [one.name for one in DEMO_TASKS if one.kind != "generation"])
def test_enough_balanced_disjoint_and_drawn_by_seed(name: str) -> None:
    task = made(name)
    for examples, wanted in ((task.train, WANTED.train), (task.dev, WANTED.dev)):
        assert wanted * 0.8 <= len(examples) <= wanted
        counts = Counter(example.label for example in examples).values()
        assert max(counts) - min(counts) <= 1
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
        pairs = [one.choices[:: 1 if one.label == 0 else -1] for one in examples]
        for example, (right, wrong) in zip(examples, pairs, strict=True):
            assert book_of(right) == book_of(example.texts[0]) != book_of(wrong)
        # every answer is right once and wrong once
        assert sorted(right for right, _ in pairs) == sorted(wrong for _, wrong in pairs)


def test_pairs_follow_or_are_of_one_book_where_the_label_says_so() -> None:
    books = corpus()
    found = [[one.text for one in passages(region, WANTED.words)] for region in books]
    neighbors = {pair for texts in found for pair in pairwise(texts)}
    for example in made("demo_entailment", books).train:
        assert (example.texts in neighbors) == (example.label == 0)
    for example in made("demo_similarity", books).train:
        assert (len(set(map(book_of, example.texts))) == 1) == (example.label == 1)
    for example in made("demo_choice", books).dev:
        assert (example.texts[0], example.choices[int(example.label or 0)]) in neighbors


def test_reversed_words_are_a_passage_that_the_other_split_has_not() -> None:
    task, books = made("demo_reverse"), corpus()
    found = {one.text for region in books for one in passages(region, WANTED.words)}
    for examples, wanted in ((task.train, WANTED.train), (task.dev, WANTED.dev)):
        assert len(examples) == wanted
        for example in examples:
            assert example.label in found
            assert example.texts[0].split() == str(example.label).split()[::-1]
    assert {one.label for one in task.train} & {one.label for one in task.dev} == set()
    assert {example.group for example in task.dev} == {"held_out", "tail"}
    assert made("demo_reverse") == task != made("demo_reverse", seed=4)


def test_authors_or_else_books_are_named_and_scored_on_passages_never_seen() -> None:
    books = corpus()
    task = made("demo_author", books)
    assert task.labels == ("author 0", "author 1", "author 2")
    known = " ".join(" ".join(region.text.split()) for region in books[:6])
    assert all(example.texts[0] not in known for example in task.dev)
    task = made("demo_author", corpus(train=10, authors=False))
    assert len(set(task.labels) & {f"b{n}" for n in range(10)}) == len(task.labels) == 8
    assert {example.group for example in task.dev} == {"tail"}


def test_small_corpora_are_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match=r"0 dev examples, expected at least 20.*add books"):
        made("demo_choice", [one for one in corpus(held_out=1) if one.use != "tail"])
    with pytest.raises(UserError, match=r"1 authors \(books, in a corpus without authors\)"):
        made("demo_author", corpus(train=1, held_out=1, authors=False))
