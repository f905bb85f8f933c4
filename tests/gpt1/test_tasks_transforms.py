"""The four input transforms against the words of SPEC section 4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt1.tasks.transforms import SpecialIds, pair, sequences, share_room, single

PUBLISHED = SpecialIds.after(40478)
S, D, E = 40478, 40479, 40480


def test_the_special_ids_follow_the_vocabulary() -> None:
    assert (PUBLISHED.start, PUBLISHED.delimiter, PUBLISHED.extract) == (S, D, E)


def test_each_kind_has_its_form() -> None:
    first, second, third = [1, 2], [3], [4, 5, 6]
    assert sequences("classification", [first], [], PUBLISHED, 512) == [[S, 1, 2, E]]
    assert sequences("entailment", [first, second], [], PUBLISHED, 512) == [[S, 1, 2, D, 3, E]]
    assert sequences("similarity", [first, second], [], PUBLISHED, 512) == [[S, 1, 2, D, 3, E], [S, 3, D, 1, 2, E]]
    # no delimiter between document and question
    assert sequences("choice", [first, second], [third, [7]], PUBLISHED, 512) == [
        [S, 1, 2, 3, D, 4, 5, 6, E],
        [S, 1, 2, 3, D, 7, E],
    ]


def test_room_goes_to_the_longer_part() -> None:
    assert share_room([3, 100], 20) == [3, 17]
    assert share_room([100, 3], 20) == [17, 3]
    assert sum(share_room([100, 100], 21)) == 21
    cut = pair([list(range(100))], [7, 8], PUBLISHED, 20)
    assert cut == [S, *range(15), D, 7, 8, E]


def test_reference_cuts_each_part_as_the_released_code() -> None:
    long = list(range(600))
    assert single(long, PUBLISHED, 512, "reference") == [S, *range(254), E]
    assert pair([long], [9], PUBLISHED, 512, "reference") == [S, *range(254), D, 9, E]
    assert pair([long], long, PUBLISHED, 512, "reference") == [S, *range(254), D, *range(254), E]
    # a question is not lost behind a long document
    assert pair([long, [9, 9]], long, PUBLISHED, 512, "reference")[253:256] == [9, 9, D]


@given(
    kind=st.sampled_from(["classification", "entailment", "similarity", "choice"]),
    lengths=st.lists(st.integers(0, 60), min_size=4, max_size=4),
    context=st.integers(16, 64),
    truncation=st.sampled_from(["room", "reference"]),
)
def test_the_extract_token_is_never_cut(kind: str, lengths: list[int], context: int, truncation: str) -> None:
    parts = [[1] * length for length in lengths]
    texts = {"classification": parts[:1]}.get(kind, parts[:2])
    made = sequences(kind, texts, parts[2:] if kind == "choice" else [], PUBLISHED, context, truncation)  # type: ignore[arg-type]
    for sequence in made:
        assert len(sequence) <= context
        assert (sequence[0], sequence[-1], sequence.count(E)) == (S, E, 1)
        assert sequence.count(D) == (0 if kind == "classification" else 1)
        if truncation == "room" and sum(map(len, texts)) > context:
            assert len(sequence) == context or kind == "choice"


def test_a_referent_has_no_transform() -> None:
    with pytest.raises(ValueError, match="without fine-tuning"):
        sequences("referent", [[1], [2]], [], PUBLISHED, 64)
