"""Merges against subword-nmt on the same table of counts, and pieces of words by them."""

import contextlib
import io
from collections.abc import Mapping
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from subword_nmt.learn_bpe import learn_bpe

from gpt1.tokenizer.bpe import END, Merge, Merges, merge, symbols
from gpt1.tokenizer.bpe_train import learn_merges
from gpt1.tokenizer.pretokenizer import count_words
from tests.gpt1.real_books import embedded


def reference(counts: Mapping[str, int], merges: int, minimum: int = 2) -> list[Merge]:
    if all(len(word) == 1 for word in counts):
        return []  # where subword-nmt fails
    table, out = "".join(f"{word} {count}\n" for word, count in counts.items()), io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):
        learn_bpe(io.StringIO(table), out, merges, min_frequency=minimum, is_dict=True)
    lines = (line.split(" ") for line in out.getvalue().split("\n")[1:-1])
    return [(first, second) for first, second in lines]


def test_equal_on_real_books() -> None:
    counts, heard = count_words("\n".join(embedded("homer") + embedded("brontes"))), list[int]()
    merges = learn_merges(counts, 1500, progress=heard.append)
    assert (merges, heard) == (reference(counts, 1500), [1000])
    assert len({first + second for first, second in merges}) == 1500


def test_equal_when_ties_rule() -> None:
    # Counts of one or two only: nearly each decision is a tie.
    counts = {word: 1 + len(word) % 2 for word in list(count_words(embedded("homer")[0]))[:1500]}
    assert learn_merges(counts, 5000) == reference(counts, 5000)


WORDS = st.text("abé", min_size=1, max_size=9)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(WORDS, st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 3))
def test_equal_on_repetitive_words(counts: dict[str, int], minimum: int) -> None:
    assert learn_merges(counts, 30, minimum) == reference(counts, 30, minimum)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(WORDS, st.integers(0, 11), min_size=1, max_size=40), st.integers(1, 80))
def test_equal_where_pruned_pairs_come_back(counts: dict[str, int], merges: int) -> None:
    # subword-nmt prunes all but the most frequent pairs at once, and comes back to them.
    steep = {word: 2**power for word, power in counts.items()}
    assert learn_merges(steep, merges, 1) == reference(steep, merges, 1)


def test_nothing_to_merge() -> None:
    assert [learn_merges(counts, 10) for counts in ({}, {"a": 5}, {"ab": 1})] == [[], [], []]


def plain(word: str, ranks: dict[Merge, int]) -> list[str]:
    parts = symbols(word)
    while ranked := [(ranks[pair], pair) for pair in pairwise(parts) if pair in ranks]:
        pair = min(ranked)[1]
        parts = merge(parts, *pair, "".join(pair))
    return parts


# Any pairs in any order: equal outputs, and merges before the ones they need, are among them.
PART = st.text("ab", min_size=1, max_size=3)
PAIRS = st.tuples(PART, PART | PART.map(lambda text: text + END))


@settings(max_examples=300, deadline=None)
@given(
    st.text("abc", min_size=1, max_size=30), st.lists(PAIRS, max_size=20, unique=True), st.data()
)
def test_pieces_of_short_and_long_words(word: str, pairs: list[Merge], data: st.DataObject) -> None:
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    expected = {text: plain(text, ranks) for text in (word, word * 20)}
    met = sorted({piece for parts in expected.values() for piece in parts})
    tokens = data.draw(st.lists(st.sampled_from(met), unique=True))
    ids = {token: number for number, token in enumerate(tokens)}
    for text, parts in expected.items():
        found = Merges(pairs, ids).pieces(text)
        known = [piece if 0 <= piece < len(ids) else None for piece in found]
        assert known == [ids.get(part) for part in parts]
