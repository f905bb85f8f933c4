"""Merges against subword-nmt on the same table of counts."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from subword_nmt.learn_bpe import learn_bpe

from gpt1.text.learn import learn_merges
from gpt1.text.words import count_words
from tests.gpt1.real_books import embedded


def reference(counts: Mapping[str, int], merges: int, minimum: int = 2) -> list[tuple[str, str]]:
    table = io.StringIO("".join(f"{word} {count}\n" for word, count in counts.items()))
    out = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):
        learn_bpe(table, out, merges, min_frequency=minimum, is_dict=True)
    lines = out.getvalue().split("\n")[1:-1]
    return [(first, second) for first, second in (line.split(" ") for line in lines)]


@pytest.mark.parametrize("folder", ["homer", "brontes"])
def test_equal_on_real_books(folder: str) -> None:
    counts = count_words("\n".join(embedded(folder)[:10]))
    assert learn_merges(counts, 1500) == reference(counts, 1500)


def test_equal_when_ties_rule() -> None:
    # Counts of one or two only: nearly every decision is a tie.
    counts = {word: 1 + len(word) % 2 for word in list(count_words(embedded("homer")[0]))[:1500]}
    assert learn_merges(counts, 5000) == reference(counts, 5000)


@settings(max_examples=200, deadline=None)
@given(
    counts=st.dictionaries(st.text("abé", min_size=1, max_size=9), st.integers(1, 5), min_size=1, max_size=12),
    minimum=st.integers(1, 3),
)
def test_equal_on_repetitive_words(counts: dict[str, int], minimum: int) -> None:
    if all(len(word) == 1 for word in counts):
        assert learn_merges(counts, 10, minimum) == []
        return
    assert learn_merges(counts, 8, minimum) == reference(counts, 8, minimum)


def test_the_order_of_the_table_does_not_matter() -> None:
    counts = count_words(embedded("brontes")[0])
    assert learn_merges(dict(sorted(counts.items())), 300) == learn_merges(dict(sorted(counts.items(), reverse=True)), 300)


@settings(max_examples=150, deadline=None)
@given(
    counts=st.dictionaries(st.text("abcd", min_size=2, max_size=14), st.integers(0, 12), min_size=2, max_size=40),
    merges=st.integers(20, 150),
)
def test_equal_where_most_pairs_are_pruned(counts: dict[str, int], merges: int) -> None:
    # Counts over three orders of magnitude: subword-nmt prunes all but the most frequent pairs at once, and comes back to them.
    steep = {word: 2**power for word, power in counts.items()}
    assert learn_merges(steep, merges, 1) == reference(steep, merges, 1)


def test_a_text_has_one_way_to_become_a_symbol() -> None:
    counts = count_words("\n".join(embedded("brontes")[:10]))
    outputs = [first + second for first, second in learn_merges(counts, 6000)]
    assert len(outputs) == len(set(outputs)) > 4000


@pytest.mark.parametrize("counts", [{}, {"a": 5}, {"ab": 1}])
def test_nothing_to_merge(counts: dict[str, int]) -> None:
    assert learn_merges(counts, 10) == []


def test_progress_is_told_every_thousand_merges() -> None:
    told: list[int] = []
    learn_merges(count_words("\n".join(embedded("brontes")[:6])), 2500, progress=told.append)
    assert told == [1000, 2000]
