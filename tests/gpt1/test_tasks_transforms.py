"""The four input transforms of the paper's figure 1 (SPEC section 4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.tasks.transforms import SpecialIds, pair, sequences, share_room, single

PUBLISHED = SpecialIds.after(40478)
S, D, E = 40478, 40479, 40480
Ids = list[list[int]]
FIGURE_1 = [
    ("classification", [[1, 2]], [], [[S, 1, 2, E]]),
    ("entailment", [[1, 2], [3]], [], [[S, 1, 2, D, 3, E]]),
    ("similarity", [[1, 2], [3]], [], [[S, 1, 2, D, 3, E], [S, 3, D, 1, 2, E]]),
    # no delimiter between document and question
    ("choice", [[1, 2], [3]], [[4, 5], [7]], [[S, 1, 2, 3, D, 4, 5, E], [S, 1, 2, 3, D, 7, E]]),
]


@pytest.mark.parametrize(("kind", "texts", "choices", "expected"), FIGURE_1)
def test_each_kind_has_the_papers_form(kind: Any, texts: Ids, choices: Ids, expected: Ids) -> None:
    assert (PUBLISHED.start, PUBLISHED.delimiter, PUBLISHED.extract) == (S, D, E)
    assert sequences(kind, texts, choices, PUBLISHED, 512) == expected


def test_room_goes_to_the_longer_part_or_each_is_cut_as_the_released_code_does() -> None:
    assert share_room([3, 100], 20) == [3, 17]
    assert sum(share_room([100, 100], 21)) == 21
    assert pair([list(range(100))], [7, 8], PUBLISHED, 20) == [S, *range(15), D, 7, 8, E]
    long, kept = list(range(600)), range(254)
    assert single(long, PUBLISHED, 512, "reference") == [S, *kept, E]
    assert pair([long], long, PUBLISHED, 512, "reference") == [S, *kept, D, *kept, E]
    # a question is not lost behind a long document
    assert pair([long, [9, 9]], long, PUBLISHED, 512, "reference")[253:256] == [9, 9, D]


@given(
    st.sampled_from(["classification", "entailment", "similarity", "choice"]),
    st.lists(st.integers(0, 60), min_size=4, max_size=4), st.integers(16, 64),
    st.sampled_from(["room", "reference"]),
)
def test_no_extract_token_is_cut(kind: Any, lengths: list[int], context: int, cut: Any) -> None:
    parts = [[1] * length for length in lengths]
    texts = parts[:1] if kind == "classification" else parts[:2]
    choices = parts[2:] if kind == "choice" else []
    made = sequences(kind, texts, choices, PUBLISHED, context, cut)
    for sequence in made:
        assert len(sequence) <= context
        assert (sequence[0], sequence[-1], sequence.count(E)) == (S, E, 1)
        assert sequence.count(D) == (0 if kind == "classification" else 1)
        if cut == "room" and sum(map(len, texts)) > context:
            assert len(sequence) == context or kind == "choice"


def test_a_referent_has_no_transform() -> None:
    with pytest.raises(ValueError, match="without fine-tuning"):
        sequences("referent", [[1], [2]], [], PUBLISHED, 64)
