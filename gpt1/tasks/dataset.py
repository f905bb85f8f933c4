"""Examples as ids, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import overload

import torch
from torch import Tensor

from gpt1.tasks.example import Example
from gpt1.tasks.pieces import Pieces
from gpt1.tasks.registry import Kind
from gpt1.tasks.transforms import Ids, SpecialIds, Truncation, sequences, whole_length

PADDING = 0
"""Right padding (there is no token for it).

It lies after the extract token, where causality hides it.
"""

Batch = tuple[Tensor, Tensor, Tensor]
"""ids (N, T) int64, lengths (N,) int64, labels (B,) of B examples with N / B sequences each, one
after the other.
"""


@dataclass(frozen=True)
class Encoded:
    """One example's sequences (one, both orders, or one an answer) and its label."""

    sequences: list[Ids]
    label: float

    @property
    def longest(self) -> int:
        """Ids of the longest sequence."""
        return max(map(len, self.sequences))


@dataclass(frozen=True)
class Form:
    """How examples become sequences: the task's kind, the special tokens, the longest sequence
    and what is cut where.
    """

    kind: Kind
    special: SpecialIds
    length: int
    truncation: Truncation = "longest_first"


class EncodedExamples(Sequence[Encoded]):
    """The examples of a split through their input transform, made when they are asked for: only the
    texts' ids are kept.

    Those without a label get 0, for predicting only. `cut` counts the examples that did not fit
    into the form's length.
    """

    def __init__(self, examples: Sequence[Example], pieces: Pieces, form: Form) -> None:
        self._pieces, self._form = pieces, form
        self._labels = [float(example.label or 0) for example in examples]
        self._shapes = [(len(example.texts), len(example.choices)) for example in examples]
        self._first = [
            0,
            *torch.tensor([sum(shape) for shape in self._shapes], dtype=torch.int64)
            .cumsum(0)
            .tolist(),
        ]
        self.cut = sum(self._is_cut(place) for place in range(len(examples)))

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, place: int) -> Encoded: ...
    @overload
    def __getitem__(self, place: slice) -> list[Encoded]: ...
    def __getitem__(self, place: int | slice) -> Encoded | list[Encoded]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        texts, choices = self._parts(place)
        form = self._form
        return Encoded(
            sequences(form.kind, texts, choices, form.special, form.length, form.truncation),
            self._labels[place],
        )

    def _parts(self, place: int) -> tuple[list[Ids], list[Ids]]:
        texts, choices = self._shapes[place]
        first = self._first[place]
        found = [self._pieces.piece(number) for number in range(first, first + texts + choices)]
        return found[:texts], found[texts:]

    def _is_cut(self, place: int) -> bool:
        return whole_length(self._form.kind, *self._parts(place)) > self[place].longest


def make_batch(examples: Sequence[Encoded], regression: bool) -> Batch:
    """Pad to the batch's longest sequence."""
    rows = [sequence for example in examples for sequence in example.sequences]
    lengths = torch.tensor([len(row) for row in rows])
    inside = torch.arange(int(lengths.max())) < lengths[:, None]  # (N, T)
    ids = torch.full(inside.shape, PADDING, dtype=torch.int64)
    ids[inside] = torch.tensor(list(chain.from_iterable(rows)))
    labels = torch.tensor(
        [example.label for example in examples], dtype=torch.float32 if regression else torch.int64
    )
    return ids, lengths, labels


def evaluation_batches(
    examples: Sequence[Encoded], size: int, regression: bool
) -> Iterator[tuple[list[int], Batch]]:
    """Batches of like length, with the places of their examples."""
    longest = [example.longest for example in examples]
    by_length = sorted(range(len(examples)), key=lambda place: (longest[place], place))
    for start in range(0, len(by_length), size):
        places = by_length[start : start + size]
        yield places, make_batch([examples[place] for place in places], regression)
