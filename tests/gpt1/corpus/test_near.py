"""Signatures, and what is decided on them: near copies, collections, one side for books that share text."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gpt1.corpus.book import Book
from gpt1.corpus.near import share_of, sharing_pairs
from gpt1.corpus.signatures import SMALLEST, Signature, WordHashes, minhash_of, run_hashes, sign, text_digest, words_of
from gpt1.corpus.split import NearRules, SplitRow, decide
from tests.gpt1.corpus.planted import EXACT, KINDS
from tests.gpt1.real_books import embedded, shared_books

RULES = NearRules(copy=0.6, tie=0.1)
HASHES = WordHashes()


@cache
def signature(name: str, text: str, form: str = "book", permutations: int = 128) -> Signature:
    return sign(Book(name, name, None, name, text, form), "part-0000", 7, permutations, HASHES)


def split(texts: dict[str, str], seed: int = 0, fraction: float = 0.3, near: NearRules | None = RULES) -> dict[str, SplitRow]:
    return {row.book: row for row in decide([signature(name, text) for name, text in texts.items()], fraction, seed, near)}


def invented(seed: int, words: int) -> str:
    """A text of its own: words drawn from a few thousand."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(3000)}" for _ in range(words))


def sides(rows: Iterable[SplitRow]) -> dict[str, str]:
    return {row.book: row.set for row in rows if row.copy_of is None}


@pytest.fixture(scope="module")
def novels() -> dict[str, str]:
    """The chapters of the Brontes as three books, and some of Tolstoy and his contemporaries."""
    chapters, russian = ([text.replace("\r", "") for text in embedded(folder)] for folder in ("brontes", "russian_lit"))
    third = len(chapters) // 3
    books = {f"bronte {number}": "\n\n".join(chapters[number * third : (number + 1) * third]) for number in range(3)}
    return books | {f"russian {number}": text for number, text in enumerate(russian)}


def test_the_digest_is_that_of_the_words() -> None:
    first, second = words_of("“Well,” he said,\nand _left_."), words_of('"Well," he said, and\nleft.')
    assert first == second == ["well", "he", "said", "and", "left"]
    assert text_digest(first) == text_digest(second) != text_digest(words_of("Well, she said, and left."))


def test_a_signature_is_the_same_in_every_process() -> None:
    """The very numbers: a change of a library that moves them would silently part old signatures from new ones."""
    code = (
        "from gpt1.corpus.signatures import *; from gpt1.corpus.book import Book; from hashlib import sha256;"
        "s = sign(Book('a', 'a', None, 'a', ' '.join(str(n * n) for n in range(9000)), 'book'), 'p', None, 64, WordHashes());"
        "print(sha256(s.minhash).hexdigest()[:16], sha256(s.smallest).hexdigest()[:16], len(s.smallest))"
    )
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        assert found.stdout.split() == ["a9fb7acd24fa07c7", "c682a7fb89362a8b", str(8 * SMALLEST)]


def test_the_estimates_are_near_the_truth(novels: dict[str, str]) -> None:
    whole = novels["bronte 0"]
    for part in (0.9, 0.5, 0.2):
        cut = whole[: int(len(whole) * part)] + invented(1, 5000)
        runs = [set(run_hashes(words_of(text), HASHES).tolist()) for text in (whole, cut)]
        jaccard = len(runs[0] & runs[1]) / len(runs[0] | runs[1])
        long, short = signature("a", whole), signature("b", cut)
        smallest = [np.frombuffer(item.smallest, dtype="<u8") for item in (short, long)]
        assert share_of(*smallest) == pytest.approx(len(runs[0] & runs[1]) / len(runs[1]), abs=0.05)
        assert minhash_of(long).jaccard(minhash_of(short)) == pytest.approx(jaccard, abs=0.13)


def test_texts_shorter_than_a_run_are_compared_by_their_words() -> None:
    assert len(run_hashes(words_of("one two"), HASHES)) == 1
    assert len(run_hashes([], HASHES)) == 0
    assert not sharing_pairs([signature("a", ""), signature("b", "... !")], 0.1)
    assert [pair.share for pair in sharing_pairs([signature("a", "one two"), signature("b", "One, two")], 0.1)] == [1.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_copy_is_found(kind: str, novels: dict[str, str]) -> None:
    for number, name in enumerate(["bronte 0", "bronte 2", "russian 1"]):
        copy = KINDS[kind](novels[name], random.Random(number))
        rows = split(novels | {f"{name} again": copy})
        found = next(row for row in rows.values() if row.copy_of)
        assert {found.book, found.copy_of} == {name, f"{name} again"}
        assert found.set == ("duplicate" if kind in EXACT else "near_duplicate")
        assert found.share is not None
        assert found.share > RULES.copy
        assert sum(row.copy_of is not None for row in rows.values()) == 1
        if kind == "licence_around":
            assert found.book == name, "the longer copy stays"


def test_different_books_by_one_author_are_not_merged(novels: dict[str, str]) -> None:
    rows = split(novels)
    assert {row.copy_of for row in rows.values()} == {None}
    assert {row.group for row in rows.values()} == set(novels)


def test_off_leaves_out_exact_copies_only(novels: dict[str, str]) -> None:
    name, text = next(iter(novels.items()))
    plants = {kind: plant(text, random.Random(0)) for kind, plant in KINDS.items()}
    rows = split({f"0 {name}": text} | plants, near=None)
    assert {row.book for row in rows.values() if row.copy_of} == set(EXACT)
    assert "near_duplicate" not in {row.set for row in rows.values()}


def test_a_story_in_a_collection_goes_and_the_collection_stays() -> None:
    stories = {f"story {number}": invented(number, 4000) for number in range(3)}
    first = f"{stories['story 0']} {stories['story 1']} {invented(10, 3000)}"
    second = f"{stories['story 1']} {stories['story 2']} {invented(11, 2000)}"
    rows = split(stories | {"first": first, "second": second, "other": invented(12, 500), "another": invented(13, 500)})
    assert {row.book: row.copy_of for row in rows.values() if row.copy_of} == {
        "story 0": "first", "story 1": "first", "story 2": "second",
    }  # fmt: skip
    assert {rows[name].group for name in (*stories, "first", "second")} == {"first"}, "they share a story: one side"
    for seed in range(30):
        chosen = split(stories | {"first": first, "second": second, "other": invented(12, 500)}, seed, 0.5)
        assert chosen["first"].set == chosen["second"].set


def test_books_that_share_a_fifth_stay_and_lie_on_one_side() -> None:
    shared_story = invented(1, 1000)
    texts = {"a": f"{invented(2, 4000)} {shared_story}", "z": f"{shared_story} {invented(3, 4500)}"}
    others = {f"other {number}": invented(20 + number, 300) for number in range(4)}
    assert {row.group for row in split(texts | others).values()} == {"a", *others}
    for seed in range(30):
        rows = split(texts | others, seed, 0.5)
        assert rows["a"].set == rows["z"].set
    assert {row.group for row in split(texts | others, near=NearRules(0.6, 0.3)).values()} == {"a", "z", *others}


def test_an_added_copy_moves_no_book() -> None:
    texts = {f"book {number:02d}": invented(number, 600) for number in range(40)}
    before = split(texts, seed=3)
    longer = {"z longer": f"{texts['book 07']} {invented(99, 100)}"}
    after = split(texts | longer, seed=3)
    assert (after["book 07"].set, after["book 07"].copy_of) == ("near_duplicate", "z longer")
    assert after["z longer"].set == before["book 07"].set, "the copy that takes a book's place lies where the book lay"
    moved = {name for name, side in sides(before.values()).items() if name != "book 07" and after[name].set != side}
    assert not moved
    assert after["z longer"].tail_start == (7 if after["z longer"].set == "train" else None)


def test_an_exact_copy_of_a_near_copy_names_its_twin() -> None:
    texts = {"a": invented(1, 900), "c": invented(3, 500), "d": invented(4, 500)}
    near = " ".join(texts["a"].split()[:700])
    rows = split(texts | {"b": near, "bb": near.upper()})
    assert (rows["b"].set, rows["b"].copy_of) == ("near_duplicate", "a")
    assert (rows["bb"].set, rows["bb"].copy_of, rows["bb"].share) == ("duplicate", "b", 1.0)


@pytest.mark.parametrize(
    ("sizes", "fraction", "held_out"),
    [
        ((6, 1, 1, 1, 1), 0.2, 2),  # the large group would lead away from two
        ((3, 3, 3), 0.45, 3),
        ((5, 5), 0.1, 5),  # one must be held out
        ((7, 2), 0.1, 2),
        ((5, 1, 1, 1, 1, 1), 0.3, 3),  # though the large group may come first
        ((1, 8), 0.85, 8),
    ],
)
def test_groups_are_held_out_together_nearest_to_the_share(sizes: tuple[int, ...], fraction: float, held_out: int) -> None:
    texts = {
        f"{group} {number}": f"{invented(1000 + group, 400)} {invented(100 * group + number, 600)}"
        for group, size in enumerate(sizes)
        for number in range(size)
    }
    for seed in range(5):
        rows = split(texts, seed, fraction)
        assert len({row.group for row in rows.values()}) == len(sizes)
        assert len({(row.group, row.set) for row in rows.values()}) == len(sizes)
        assert sum(row.set == "held_out" for row in rows.values()) == held_out


def test_stretches_of_sentences_are_not_searched() -> None:
    text = invented(1, 2000)
    items = [
        signature("s1", text, "sentences"),
        signature("s2", text[: len(text) * 9 // 10], "sentences"),
        signature("s3", text.upper(), "sentences"),
        signature("b", invented(2, 300)),
    ]
    assert [bool(item.minhash) for item in items] == [False, False, False, True]
    assert {row.book: row.copy_of for row in decide(items, 0.5, 0, RULES)} == {"b": None, "s1": None, "s2": None, "s3": "s1"}


def test_the_order_of_the_books_does_not_matter(novels: dict[str, str]) -> None:
    copies = {f"{kind} {name}": plant(novels[name], random.Random(1)) for kind, plant in KINDS.items() for name in list(novels)[:2]}
    items = [signature(name, text) for name, text in (novels | copies).items()]
    wanted = decide(items, 0.3, 0, RULES)
    for seed in range(3):
        random.Random(seed).shuffle(items)
        assert decide(items, 0.3, 0, RULES) == wanted


def test_fifteen_megabytes_of_real_books_have_no_false_copy(shared: Path) -> None:
    items = [signature(f"{number:03d}", text) for number, text in enumerate(shared_books(shared, 15_000_000))]
    rows = decide(items, 0.1, 0, RULES)
    assert len(rows) == 19
    assert not [row for row in rows if row.copy_of]
