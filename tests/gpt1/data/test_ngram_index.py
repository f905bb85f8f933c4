"""The index of n-grams against a search by comparing every place."""

import tracemalloc
from collections.abc import Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from gpt1.data import ngram_index
from gpt1.data.ngram_index import NgramIndex, Place, copied, whole_text
from gpt1.data.shards import DocumentSpan, Ids, Shards
from tests.conftest import refuses

LENGTHS = (400, 3, 0, 250, 8, 7, 331)
Found = dict[tuple[int, int], list[Place]]


def shards_of(books: Sequence[Ids]) -> Shards:
    spans = [
        DocumentSpan(f"book {n}", "t", None, "s", "part-0000", "train", 0, len(ids), "0" * 64)
        for n, ids in enumerate(books)
    ]
    return Shards(books, spans, "v" * 64)


def random_shards(letters: int, dtype: type[np.integer] = np.uint16) -> Shards:
    """Books of few different ids: most n-grams occur often."""
    draw = np.random.default_rng(letters)
    return shards_of([draw.integers(0, letters, length).astype(dtype) for length in LENGTHS])


def index_of(shards: Shards, folder: Path, n: int, at_once: int = 1 << 20) -> NgramIndex:
    NgramIndex.build(shards, folder / "ngrams", n, at_once)
    return NgramIndex(shards, folder / "ngrams", n)


def longest_spans(shards: Shards, text: list[int], n: int) -> Found:
    """What `matches` is to find, by comparing each place of the text with each of the books."""
    found: Found = {}
    for start, (number, book) in product(range(len(text)), enumerate(shards)):
        ids = book.tolist()
        for at in range(len(ids)):
            length = 0
            while text[start + length : start + length + 1] == ids[at + length : at + length + 1]:
                if start + length == len(text):
                    break
                length += 1
            if length >= n:
                found.setdefault((start, start + length), []).append((number, at))
    return {
        (start, end): places for (start, end), places in found.items()
        if not any(a <= start and end <= b and (a, b) != (start, end) for a, b in found)
    }  # fmt: skip


def text_of(shards: Shards, draw: np.random.Generator, letters: int) -> list[int]:
    """Pieces of the books with other ids between them."""
    books = [shards.book(number)[draw.integers(0, 200) :][:40].tolist() for number in (0, 3, 6)]
    pieces = [[*book[: draw.integers(1, 20)], int(draw.integers(letters))] for book in books]
    return [token for piece in pieces for token in piece]


@pytest.mark.parametrize(("letters", "n"), [(2, 8), (5, 3), (5, 2), (300, 8)])
def test_against_comparing_every_place(letters: int, n: int, tmp_path: Path) -> None:
    shards, draw = random_shards(letters), np.random.default_rng(1)
    index = index_of(shards, tmp_path, n)
    for text in [text_of(shards, draw, letters) for _ in range(6)]:
        expected = longest_spans(shards, text, n)
        found = index.matches(text)
        assert {(one.start, one.end): list(one.places) for one in found} == expected
        assert [one.start for one in found] == sorted(one.start for one in found)
        some = index.matches(text, limit=2)
        assert [one.places for one in some] == [one.places[:2] for one in found]
        assert [one.count for one in some] == [len(one.places) for one in found]
        covered = {at for start, end in expected for at in range(start, end)}
        assert copied(found) == len(covered)


def test_one_token_many_times_takes_no_more_memory_than_once(tmp_path: Path) -> None:
    """The n-gram is at 7,500 places, and 2,000 times in the text: 15 million pairs."""
    lines = [np.full(length, 7, np.uint16) for length in (*[22] * 500, 40)]
    index = index_of(shards_of(lines), tmp_path, 8)
    tracemalloc.start()
    found = index.matches([7] * 2007, limit=3)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(one.start, one.end) for one in found] == [(at, at + 40) for at in range(1968)]
    assert {one.count for one in found} == {1}
    assert most < 10e6


def test_hashes_that_agree_by_chance_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With four different hashes for all n-grams."""
    monkeypatch.setattr(ngram_index, "splitmix64", lambda values: values << np.uint64(62))
    shards, draw = random_shards(300), np.random.default_rng(2)
    index = index_of(shards, tmp_path, 8)
    for text in [text_of(shards, draw, 300) for _ in range(3)]:
        found = {(one.start, one.end): list(one.places) for one in index.matches(text)}
        assert found == longest_spans(shards, text, 8)


def test_no_span_crosses_the_end_of_a_book(tmp_path: Path) -> None:
    books = [np.arange(20, dtype=np.uint16), np.arange(20, 40, dtype=np.uint16)]
    index = index_of(shards_of(books), tmp_path, 8)
    found = [(one.start, one.end, list(one.places)) for one in index.matches(list(range(10, 33)))]
    assert found == [(0, 10, [(0, 10)]), (10, 23, [(1, 0)])]
    assert index.matches(list(range(13, 27))) == []


def test_any_number_of_passes_writes_the_same_file(tmp_path: Path) -> None:
    shards, digests = random_shards(9, np.uint32), set()
    for at_once in (1 << 20, 100, 7):
        index_of(shards, tmp_path, 4, at_once)
        digests.add(sha256((tmp_path / "ngrams").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_texts_without_an_ngram_and_books_without_one(tmp_path: Path) -> None:
    empty = index_of(shards_of([np.arange(5, dtype=np.uint16)]), tmp_path, 8)
    assert empty.matches(list(range(9))) == []
    index = index_of(random_shards(2), tmp_path, 8)
    assert index.matches([1, 0, 1]) == []


@pytest.mark.parametrize("length", [3, 6])
def test_a_short_text_is_found_without_an_index(length: int) -> None:
    shards = random_shards(3)
    text = shards.book(3)[10 : 10 + length].tolist()
    places = [
        (number, at) for number, book in enumerate(shards) for at in range(len(book))
        if book[at : at + length].tolist() == text
    ]  # fmt: skip
    [match] = whole_text(shards, text)
    assert (match.start, match.end, match.places) == (0, length, places)
    assert whole_text(shards, [*text, 99]) == whole_text(shards, text[:2]) == []


def test_what_cannot_be_an_index(tmp_path: Path) -> None:
    shards = random_shards(2)
    index_of(shards, tmp_path, 8)
    refuses("delete the file", NgramIndex, shards, tmp_path / "ngrams", 9)
    huge = shards_of([])
    huge.spans = [DocumentSpan("b", "t", None, "s", "p", "train", 0, 1 << 33, "0" * 64)]
    refuses("at most 4,294,967,296", NgramIndex.build, huge, tmp_path / "huge")
