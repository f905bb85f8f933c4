"""The split: held-out books, tails; test_near.py has copies."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from gpt1.corpus.document import write_table
from gpt1.corpus.split import SPLIT, Signature, books_by_part, decide, tail_start

NEW = Signature("new", "part-0001", "book", "new", 1, 5, None)


def signatures(number: int) -> list[Signature]:
    one = Signature("", "part-0000", "book", "", 200, 1000, 900)
    return [replace(one, book=f"book {at:03d}", digest=f"digest {at}") for at in range(number)]


def held_out(books: list[Signature], fraction: float, seed: int) -> set[str]:
    return {row.book for row in decide(books, fraction, seed) if row.set == "held_out"}


def test_an_added_book_moves_no_other_of_many() -> None:
    before = held_out(signatures(200), 0.2, 7)
    assert held_out([*signatures(200), NEW], 0.2, 7) - {"new"} == before
    assert 20 <= len(before) <= 60


def test_of_few_books_the_number_is_exact() -> None:
    cases = ((41, 0.1, 4), (199, 0.1, 20), (10, 0.01, 1), (3, 0.89, 2), (2, 0.0001, 1))
    for books, fraction, number in (*cases, (2, 0.8999, 1)):
        chosen = [held_out(signatures(books), fraction, seed) for seed in range(20)]
        assert {len(names) for names in chosen} == {number}
        assert len(set(map(frozenset, chosen))) > 1


def test_a_larger_share_holds_out_more_and_gives_none_back() -> None:
    chosen = [held_out(signatures(50), share / 100, 3) for share in range(1, 89)]
    assert all(small <= large for small, large in pairwise(chosen))
    assert len(chosen[-1]) == 44


def test_a_small_corpus_changes_by_one_book_when_one_is_added() -> None:
    books = signatures(40)
    for seed in range(20):
        before, after = held_out(books, 0.1, seed), held_out([*books, NEW], 0.1, seed)
        assert len(before) == len(after) == 4
        assert after - before <= {"new"}


def test_the_order_of_books_does_not_matter() -> None:
    assert decide(signatures(50), 0.3, 1) == decide(signatures(50)[::-1], 0.3, 1)


def test_a_fraction_of_the_training_books_is_a_subset_of_a_larger_one(tmp_path: Path) -> None:
    rows = decide(signatures(50), 0.2, 3)
    with (tmp_path / "split.parquet").open("wb") as file:
        write_table(file, SPLIT, [vars(row) for row in rows])

    def chosen(fraction: float) -> list[set[str]]:
        found = books_by_part(tmp_path / "split.parquet", ("train", "held_out"), fraction)
        return [
            {str(book) for part in found.values() for book, of, _ in part if of == name}
            for name in ("train", "held_out")
        ]

    everything = chosen(1.0)
    assert [len(names) for names in everything] == [40, 10]
    sets = [chosen(fraction) for fraction in (0.001, 0.125, 0.25, 0.5)]
    assert [len(train) for train, _ in sets] == [1, 5, 10, 20]
    nested = pairwise([train for train, _ in [*sets, everything]])
    assert all(smaller < larger for smaller, larger in nested)
    assert all(held_out == everything[1] for _, held_out in sets)


def test_a_tail_begins_at_a_paragraph() -> None:
    text = "\n\n".join(f"paragraph {index} with words" for index in range(100))
    start = tail_start(text, 0.1) or 0
    assert text[:start].endswith("\n\n")
    assert 0.07 < (len(text) - start) / len(text) <= 0.1
    assert tail_start(text, 0) is tail_start("no boundary at all", 0.5) is None
    assert tail_start("one line\nanother line", 0.6) == 9
