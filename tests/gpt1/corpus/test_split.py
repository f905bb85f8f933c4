"""The split: copies, held-out books, tails."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from gpt1.corpus.signatures import Signature
from gpt1.corpus.split import decide, tail_start
from gpt1.errors import UserError


def signatures(number: int) -> list[Signature]:
    return [Signature(f"book {index:03d}", "part-0000", "book", f"digest {index}", 200, 1000, 900) for index in range(number)]


def test_an_added_book_moves_no_other() -> None:
    before = {row.book: row.set for row in decide(signatures(200), 0.2, 7)}
    added = Signature("new", "part-0001", "book", "new", 1, 5, None)
    after = {row.book: row.set for row in decide([*signatures(200), added], 0.2, 7)}
    assert {name: after[name] for name in before} == before
    assert 20 <= sum(chosen == "held_out" for chosen in before.values()) <= 60


@pytest.mark.parametrize(
    ("books", "fraction", "held_out"), [(41, 0.1, 4), (199, 0.1, 20), (10, 0.01, 1), (3, 0.89, 2), (2, 0.5, 1)]
)
def test_of_few_books_the_number_is_exact(books: int, fraction: float, held_out: int) -> None:
    chosen = [{row.book for row in decide(signatures(books), fraction, seed) if row.set == "held_out"} for seed in range(20)]
    assert {len(names) for names in chosen} == {held_out}
    assert len({frozenset(names) for names in chosen}) > 1


def test_a_larger_share_holds_out_more_and_gives_none_back() -> None:
    chosen = [{row.book for row in decide(signatures(50), share / 100, 3) if row.set == "held_out"} for share in range(1, 89)]
    assert all(small <= large for small, large in pairwise(chosen))
    assert len(chosen[-1]) == 44


def test_a_small_corpus_changes_by_one_book_when_one_is_added() -> None:
    added = Signature("new", "part-0001", "book", "new", 1, 5, None)
    for seed in range(20):
        before, after = ({row.book for row in decide(items, 0.1, seed) if row.set == "held_out"}
                         for items in (signatures(40), [*signatures(40), added]))  # fmt: skip
        assert len(after) == 4
        assert before == after or (after - before == {"new"} and len(before - after) == 1)


def test_the_seed_matters_and_nothing_else_does() -> None:
    books = signatures(50)
    assert decide(books, 0.3, 1) == decide(list(reversed(books)), 0.3, 1)
    assert decide(books, 0.3, 1) != decide(books, 0.3, 2)


def test_copies_never_sit_on_both_sides() -> None:
    books = signatures(40)
    copies = [replace(item, book=f"z copy of {item.book}", part="part-0001") for item in books]
    rows = decide([*copies, *books], 0.5, 3)
    for row in rows:
        if row.book.startswith("z"):
            assert (row.set, row.copy_of) == ("duplicate", row.book.removeprefix("z copy of "))
        else:
            assert row.set in ("train", "held_out")
    assert {row.tail_start for row in rows if row.set != "train"} == {None}
    assert {row.tail_start for row in rows if row.set == "train"} == {900}


@pytest.mark.parametrize("fraction", [0.0001, 0.8999])
def test_there_is_always_a_book_on_either_side(fraction: float) -> None:
    for seed in range(20):
        assert {row.set for row in decide(signatures(2), fraction, seed)} == {"train", "held_out"}


def test_one_book_is_too_few() -> None:
    with pytest.raises(UserError, match="found 1 book after"):
        decide([*signatures(1), replace(signatures(1)[0], book="copy")], 0.1, 0)


def test_a_tail_begins_at_a_paragraph() -> None:
    text = "\n\n".join(f"paragraph {index} with words" for index in range(100))
    start = tail_start(text, 0.1)
    assert start is not None
    assert text[start:].startswith("paragraph ")
    assert text[:start].endswith("\n\n")
    assert 0.07 < (len(text) - start) / len(text) <= 0.1
    assert tail_start(text, 0) is None
    assert tail_start("no boundary at all", 0.5) is None
    assert tail_start("one line\nanother line", 0.6) == 9
