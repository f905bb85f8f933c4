"""Examples as ids, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt1.tasks.example import Example
from gpt1.tasks.table import Kind
from gpt1.tasks.transforms import Ids, SpecialIds, Truncation, sequences

PADDING = 0
"""Right padding (SPEC section 2: there is no token for it). It lies after the extract token, where causality hides it."""

Batch = tuple[Tensor, Tensor, Tensor]
"""ids (N, T) int64, lengths (N,) int64, labels (B,) of B examples with N / B sequences each, one after the other."""


@dataclass(frozen=True)
class Encoded:
    """One example's sequences (one, both orders, or one an answer) and its label."""

    sequences: list[Ids]
    label: float

    @property
    def longest(self) -> int:
        """Ids of the longest sequence."""
        return max(map(len, self.sequences))


def encode_examples(
    examples: Sequence[Example],
    kind: Kind,
    encode: Callable[[str], list[int]],
    special: SpecialIds,
    context: int,
    truncation: Truncation,
) -> list[Encoded]:
    """All examples through the input transform of their kind. Those without a label get 0, for predicting only."""
    encoded = []
    for example in examples:
        texts = [encode(text) for text in example.texts]
        choices = [encode(choice) for choice in example.choices]
        encoded.append(Encoded(sequences(kind, texts, choices, special, context, truncation), float(example.label or 0)))
    return encoded


def make_batch(examples: Sequence[Encoded], regression: bool) -> Batch:
    """Pad to the batch's longest sequence."""
    rows = [sequence for example in examples for sequence in example.sequences]
    ids = torch.full((len(rows), max(map(len, rows))), PADDING, dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
    lengths = torch.tensor([len(row) for row in rows])
    labels = torch.tensor([example.label for example in examples], dtype=torch.float32 if regression else torch.int64)
    return ids, lengths, labels


def evaluation_batches(examples: Sequence[Encoded], size: int, regression: bool) -> Iterator[tuple[list[int], Batch]]:
    """Batches of like length, with the places of their examples."""
    by_length = sorted(range(len(examples)), key=lambda place: (examples[place].longest, place))
    for start in range(0, len(by_length), size):
        places = by_length[start : start + size]
        yield places, make_batch([examples[place] for place in places], regression)
