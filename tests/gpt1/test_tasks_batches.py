"""Batches by length, a function of seed and epoch, of examples that are cut to fit."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gpt1.tasks.batches import epoch_batches
from gpt1.tasks.encoded import EncodedExamples, Form, make_batch
from gpt1.tasks.example import Example
from gpt1.tasks.pieces import encode_pieces
from gpt1.tasks.transforms import SpecialIds

LENGTHS = random.Random(1).choices(range(3, 60), k=1000)
SPECIAL = SpecialIds.after(60)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_example_at_most_once(count: int, size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(LENGTHS[:count], size, seed, epoch, "length")
    places = [place for batch in batches for place in batch]
    assert len(set(places)) == len(places) == count // size * size
    assert {len(batch) for batch in batches} <= {size}
    assert batches == epoch_batches(LENGTHS[:count], size, seed, epoch, "length")


def test_by_length_pads_little_and_differs_between_seeds_and_epochs() -> None:
    def padding(batches: list[list[int]]) -> float:
        padded = sum(len(batch) * max(LENGTHS[place] for place in batch) for batch in batches)
        return padded / sum(LENGTHS[place] for batch in batches for place in batch)

    first = epoch_batches(LENGTHS, 16, 1, 0, "length")
    assert padding(first) < 1.15 < 1.6 < padding(epoch_batches(LENGTHS, 16, 1, 0, "random"))
    for seed, epoch in ((2, 0), (1, 1)):
        other = set(map(frozenset, epoch_batches(LENGTHS, 16, seed, epoch, "length")))
        assert len(set(map(frozenset, first)) & other) < len(first) / 10


def test_what_does_not_fit_is_cut_counted_and_keeps_its_extract_token() -> None:
    texts = (" ".join(["5"] * 100), "5 6")
    examples = [Example(str(n), (text,), label=1 - n) for n, text in enumerate(texts)]
    form = Form("classification", SPECIAL, 20)
    kept = EncodedExamples(
        examples, encode_pieces(examples, lambda text: [*map(int, text.split())]), form
    )
    assert kept.cut == 1
    assert kept[0].sequences == [[SPECIAL.start, *[5] * 18, SPECIAL.extract]]
    ids, lengths, labels = make_batch(kept[:2], regression=False)
    assert (lengths.tolist(), labels.tolist()) == ([20, 4], [1, 0])
    assert ids[1].tolist() == [*kept[1].sequences[0], *[0] * 16]
