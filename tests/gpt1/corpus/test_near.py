"""Near copies, collections, and one side for books that share text, against brute force."""

import random
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from gpt1.corpus.document import Document
from gpt1.corpus.split import (
    NearRules,
    Signature,
    SplitRow,
    WordHashes,
    decide,
    groups,
    run_hashes,
    share_of,
    sharing_pairs,
    sign,
    words_of,
)
from tests.gpt1.corpus.planted import EXACT, KINDS
from tests.gpt1.real_books import embedded, shared_books

RULES, HASHES = NearRules(copy=0.6, tie=0.1), WordHashes()


@cache
def signature(name: str, text: str, form: str = "book") -> Signature:
    return sign(Document(name, name, None, name, text, form), "part-0000", 7, 128, HASHES)


def split(texts: dict[str, str], seed: int = 0, fraction: float = 0.3) -> dict[str, SplitRow]:
    items = [signature(name, text) for name, text in texts.items()]
    return {row.book: row for row in decide(items, fraction, seed, RULES)}


def copies(rows: dict[str, SplitRow]) -> dict[str, str]:
    return {row.book: row.copy_of for row in rows.values() if row.copy_of}


def invented(seed: int, words: int) -> str:
    """A text of its own: words drawn from a few thousand."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(3000)}" for _ in range(words))


def several(number: int, words: int) -> dict[str, str]:
    return {f"other {at:02d}": invented(20 + at, words) for at in range(number)}


@pytest.fixture(scope="module")
def novels() -> dict[str, str]:
    """The chapters of the Brontes as three books, and some of Tolstoy and his contemporaries."""
    books = {f"russian {at}": text for at, text in enumerate(embedded("russian_lit"))}
    chapters = embedded("brontes")
    third = len(chapters) // 3
    for at in range(3):
        books[f"bronte {at}"] = "\n\n".join(chapters[at * third : (at + 1) * third])
    return {name: text.replace("\r", "") for name, text in books.items()}


def test_a_signature_is_the_same_for_ever() -> None:
    """A library that moves the numbers would part old signatures from new ones."""
    book = Document("a", "a", None, "a", " ".join(str(n * n) for n in range(9000)), "book")
    found = sign(book, "p", None, 64, HASHES)
    digests = [sha256(part).hexdigest()[:16] for part in (found.minhash, found.smallest)]
    assert digests == ["a9fb7acd24fa07c7", "c682a7fb89362a8b"]


@pytest.mark.parametrize("part", [0.9, 0.5, 0.2])
def test_the_estimates_are_near_the_exact_shares(part: float, novels: dict[str, str]) -> None:
    novel = novels["bronte 0"]
    cut = novel[: int(len(novel) * part)] + invented(1, 5000)
    runs, other = (set(run_hashes(words_of(text), HASHES).tolist()) for text in (novel, cut))
    long, short = signature("a", novel), signature("b", cut)
    smallest = [np.frombuffer(item.smallest, dtype="<u8") for item in (short, long)]
    assert share_of(*smallest) == pytest.approx(len(runs & other) / len(other), abs=0.05)
    [pair] = sharing_pairs([long, short], 0.05)
    assert pair.jaccard == pytest.approx(len(runs & other) / len(runs | other), abs=0.13)


def test_texts_shorter_than_a_run_are_compared_by_their_words() -> None:
    assert not list(sharing_pairs([signature("a", ""), signature("b", "... !")], 0.1))
    [pair] = sharing_pairs([signature("a", "one two"), signature("b", "One, two")], 0.1)
    assert pair.share == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_copy_is_found_and_no_other(kind: str, novels: dict[str, str]) -> None:
    for number, name in enumerate(["bronte 0", "bronte 2", "russian 1"]):
        again = f"{name} again"
        rows = split(novels | {again: KINDS[kind](novels[name], random.Random(number))})
        [(book, copy_of)] = copies(rows).items()
        assert {book, copy_of} == {name, again}
        assert len({row.group for row in rows.values()}) == len(novels)
        assert rows[book].set == ("duplicate" if kind in EXACT else "near_duplicate")
        assert (rows[book].share or 0) > RULES.copy
        assert kind != "licence_around" or book == name, "the longer copy stays"


def test_a_story_in_a_collection_goes_and_the_collection_stays() -> None:
    texts = {f"story {number}": invented(number, 4000) for number in range(3)}
    texts["first"] = f"{texts['story 0']} {texts['story 1']} {invented(10, 3000)}"
    texts["second"] = f"{texts['story 1']} {texts['story 2']} {invented(11, 2000)}"
    rows = split(texts | several(2, 500))
    assert copies(rows) == {"story 0": "first", "story 1": "first", "story 2": "second"}
    assert {rows[name].group for name in texts} == {"first"}, "they share a story: one side"
    for seed in range(30):
        chosen = split(texts | several(1, 500), seed, 0.5)
        assert chosen["first"].set == chosen["second"].set


def test_an_added_copy_takes_its_books_place_and_moves_no_other() -> None:
    texts = several(40, 600)
    before = split(texts, seed=3)
    after = split(texts | {"z longer": f"{texts['other 07']} {invented(99, 100)}"}, seed=3)
    assert copies(after) == {"other 07": "z longer"}
    assert [name for name, row in before.items() if after[name].set != row.set] == ["other 07"]
    assert after["z longer"].set == before["other 07"].set
    assert after["z longer"].tail_start == (7 if before["other 07"].set == "train" else None)


def test_an_exact_copy_of_a_near_copy_names_its_twin() -> None:
    text = invented(1, 900)
    near = " ".join(text.split()[:700])
    rows = split({"a": text, "b": near, "bb": near.upper()} | several(2, 500))
    assert copies(rows) == {"b": "a", "bb": "b"}
    assert [rows[name].set for name in ("b", "bb")] == ["near_duplicate", "duplicate"]
    assert rows["bb"].share == 1.0


@pytest.mark.parametrize("case", [
    ((6, 1, 1, 1, 1), 0.2, 2),  # the large group would lead away from two
    ((5, 5), 0.1, 5),  # one must be held out
    ((5, 1, 1, 1, 1, 1), 0.3, 3), ((1, 8), 0.85, 8),  # though the large group may come first
])  # fmt: skip
def test_groups_stay_together_near_the_share(case: tuple[tuple[int, ...], float, int]) -> None:
    sizes, fraction, held_out = case
    texts = dict[str, str]()
    for group, number in [(at, n) for at, size in enumerate(sizes) for n in range(size)]:
        own = invented(100 * group + number, 600)
        texts[f"{group} {number}"] = f"{invented(1000 + group, 400)} {own}"
    for seed in range(5):
        rows = split(texts, seed, fraction).values()
        sides = {(row.group, row.set) for row in rows}
        assert len({row.group for row in rows}) == len(sides) == len(sizes)
        assert sum(row.set == "held_out" for row in rows) == held_out


def test_sentences_are_compared_exactly_only() -> None:
    text = invented(1, 2000)
    texts = {"s1": text, "s2": text[: len(text) * 9 // 10], "s3": text.upper()}
    items = [signature(name, some, "sentences") for name, some in texts.items()]
    assert copies({row.book: row for row in decide(items, 0.5, 0, RULES)}) == {"s3": "s1"}


def test_many_copies_of_one_book_are_compared_with_it_alone() -> None:
    """And many books that share a text are compared with a few of them."""
    text, draw = invented(1, 1200), random.Random(2)
    near = {f"copy {n:03d}": KINDS["other_spelling"](text, draw) for n in range(150)}
    items = [signature(name, some) for name, some in ({"whole": f"{text} end"} | near).items()]
    pairs = list(sharing_pairs(items, 0.3, 0.6))
    assert {pair.longer.book for pair in pairs} == {"whole"}
    assert len(pairs) == 150
    related = [signature(str(n), f"{text} {invented(100 + n, 1300)}") for n in range(200)]
    few, many = (list(sharing_pairs(related[:number], 0.3, 0.6)) for number in (100, 200))
    assert len(many) <= 1.5 * 2 * len(few)
    assert len(set(groups(many).values())) == 1


@pytest.mark.slow
def test_fifteen_megabytes_of_real_books_have_no_false_copy(shared: Path) -> None:
    books = enumerate(shared_books(shared, 15_000_000))
    rows = split({f"{number:03d}": text for number, text in books}, 0, 0.1)
    assert (len(rows), copies(rows)) == (19, {})
