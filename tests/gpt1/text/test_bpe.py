"""Pieces of long words, which are cut by another algorithm."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from gpt1.text.bpe import END, Merge, merge, pieces, symbols


def plain(word: str, ranks: dict[Merge, int]) -> list[str]:
    parts = symbols(word)
    while True:
        ranked = [(ranks[pair], pair) for pair in pairwise(parts) if pair in ranks]
        if not ranked:
            return parts
        parts = merge(parts, *min(ranked)[1])


def merges() -> st.SearchStrategy[list[Merge]]:
    """Any pairs over a tiny alphabet, in any order: outputs that coincide and merges before the ones they need are among them."""
    part = st.text("ab", min_size=1, max_size=3)
    return st.lists(st.tuples(part, st.one_of(part, part.map(lambda text: text + END))), max_size=20, unique=True)


@settings(max_examples=300, deadline=None)
@given(word=st.text("abc", min_size=1, max_size=30), pairs=merges(), times=st.sampled_from([1, 20]))
def test_short_and_long_words(word: str, pairs: list[Merge], times: int) -> None:
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    assert pieces(word * times, ranks) == plain(word * times, ranks)
