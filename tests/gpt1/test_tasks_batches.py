"""Batches by length: a pure function of seed and epoch, every example at most once, little padding, the same losses."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.tasks.batches import epoch_batches
from gpt1.tasks.encoded import Encoded, EncodedExamples, Form, make_batch
from gpt1.tasks.example import Example
from gpt1.tasks.pieces import encode_pieces, load_pieces, pieces_bytes
from gpt1.tasks.table import TASKS
from gpt1.tasks.transforms import SpecialIds, sequences
from tests.gpt1.test_tasks_losses import CHOICES, TEXTS, encoded, in_float64, model_for  # noqa: F401 (a fixture)

LENGTHS = random.Random(1).choices(range(3, 60), k=1000)


@given(count=st.integers(1, 300), size=st.integers(1, 40), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_every_example_at_most_once_and_only_the_rest_is_left_out(count: int, size: int, seed: int, epoch: int) -> None:
    lengths = LENGTHS[:count]
    for batching in ("length", "random"):
        batches = epoch_batches(lengths, size, seed, epoch, batching)  # type: ignore[arg-type]
        places = [place for batch in batches for place in batch]
        assert len(set(places)) == len(places) == count // size * size
        assert {len(batch) for batch in batches} <= {size}


def test_the_same_batches_for_the_same_seed_and_epoch_alone() -> None:
    first = epoch_batches(LENGTHS, 16, 1, 0, "length")
    assert first == epoch_batches(LENGTHS, 16, 1, 0, "length")
    as_sets = {frozenset(batch) for batch in first}
    for other in (epoch_batches(LENGTHS, 16, 2, 0, "length"), epoch_batches(LENGTHS, 16, 1, 1, "length")):
        assert len(as_sets & {frozenset(batch) for batch in other}) < len(first) / 10


def test_by_length_pads_little_and_comes_in_no_order_of_length() -> None:
    def padding(batches: list[list[int]]) -> float:
        padded = sum(len(batch) * max(LENGTHS[place] for place in batch) for batch in batches)
        return padded / sum(LENGTHS[place] for batch in batches for place in batch)

    grouped, mixed = epoch_batches(LENGTHS, 16, 1, 0, "length"), epoch_batches(LENGTHS, 16, 1, 0, "random")
    assert padding(grouped) < 1.15
    assert padding(mixed) > 1.6
    longest = [max(LENGTHS[place] for place in batch) for batch in grouped]
    rises = sum(a < b for a, b in pairwise(longest))
    assert 0.3 * len(longest) < rises < 0.7 * len(longest)


@pytest.mark.parametrize("name", ["cola", "mrpc", "race", "stsb"])
def test_company_and_padding_change_no_loss(name: str) -> None:
    """The mean over a batch is the mean over its examples alone, so grouping by length changes which, never what."""
    task = TASKS[name]
    model = model_for(task).double()
    examples = encoded(task, [0, 1, 1, 0])

    def loss(rows: list[Encoded]) -> float:
        ids, lengths, labels = make_batch(rows, task.regression)
        return float(model(ids, lengths, labels.double() if task.regression else labels).detach())

    alone = [loss([example]) for example in examples]
    assert loss(examples) == pytest.approx(sum(alone) / 4, abs=1e-6)
    assert loss(examples[::-1]) == pytest.approx(sum(alone) / 4, abs=1e-6)


def test_a_batch_is_right_padded_and_keeps_an_examples_sequences_together() -> None:
    examples = [Encoded([[7, 8, 9], [7]], 1), Encoded([[5], [6, 6]], 0)]
    ids, lengths, labels = make_batch(examples, regression=False)
    assert ids.tolist() == [[7, 8, 9], [7, 0, 0], [5, 0, 0], [6, 6, 0]]
    assert (lengths.tolist(), labels.tolist()) == ([3, 1, 1, 2], [1, 0])


SPECIAL = SpecialIds.after(60)


def text_examples() -> list[Example]:
    def words(ids: list[int]) -> str:
        return " ".join(map(str, ids))

    return [
        Example(f"e{n}", tuple(map(words, texts)), tuple(map(words, choices)), n % 4)
        for n, (texts, choices) in enumerate(zip(TEXTS, CHOICES, strict=True))
    ]


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def test_ids_are_encoded_once_and_kept(tmp_path) -> None:  # type: ignore[no-untyped-def]
    calls: list[str] = []

    def encode(text: str) -> list[int]:
        calls.append(text)
        return numbers(text)

    examples = [*text_examples(), *text_examples()]
    pieces = encode_pieces(examples, encode)
    assert len(calls) == len(set(calls))
    file = tmp_path / "train.safetensors"
    file.write_bytes(pieces_bytes(pieces))
    assert file.read_bytes() == pieces_bytes(encode_pieces(examples, numbers))
    kept = EncodedExamples(examples, load_pieces(file, examples), Form("choice", SPECIAL, 48))
    straight = [sequences("choice", texts, choices, SPECIAL, 48) for texts, choices in zip(TEXTS, CHOICES, strict=True)]
    assert [example.sequences for example in kept] == straight * 2
    assert [example.label for example in kept[2:6]] == [2, 3, 0, 1]
    assert kept.cut == 0
    with pytest.raises(Exception, match="the examples have 24; run the encode stage again"):
        load_pieces(file, text_examples())


def test_what_does_not_fit_is_cut_counted_and_keeps_its_extract_token() -> None:
    examples = [Example("long", (" ".join(["5"] * 100),), label=1), Example("short", ("5 6",), label=0)]
    kept = EncodedExamples(examples, encode_pieces(examples, numbers), Form("classification", SPECIAL, 20))
    assert kept.cut == 1
    assert kept[0].sequences == [[SPECIAL.start, *[5] * 18, SPECIAL.extract]]
    with pytest.raises(IndexError):
        kept[2]
    assert kept[-1].sequences == kept[1].sequences
    assert torch.equal(make_batch(kept[:2], False)[1], torch.tensor([20, 4]))
