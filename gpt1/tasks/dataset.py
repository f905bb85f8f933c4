"""Examples as token ids, and batches of them as tensors.

    Example -> TokenizedTexts (ids of its texts) -> TokenizedExample (input transform) -> Batch

The ids do not depend on the model: they are made once for a task and shared by every seed and
variant. Input transforms and truncation, which depend on the model, come later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.rng import generator
from gpt1.tasks.config import Truncation
from gpt1.tasks.io import Example
from gpt1.tasks.registry import Kind, Task
from gpt1.tokenizer.vocabulary import UNKNOWN

Ids = list[int]
Encode = Callable[[str], Ids]
Decode = Callable[[Ids], str]
SPECIAL_TOKENS = 3
PADDING = 0
"""Right padding (there is no token for it).

It comes after the extract token, where causality hides it.
"""

Batch = tuple[Tensor, Tensor, Tensor]
"""ids (N, T) int64, lengths (N,) int64, labels (B,) of B examples with N / B sequences each, one
after the other.
"""


@dataclass(frozen=True)
class TokenizedTexts:
    """The ids of a split's texts, each kept once (RACE's questions share their passage).

    `ids` (N,) int32 of all distinct texts; text t is ids[starts[t] : starts[t + 1]]; `texts` (P,)
    numbers them in the order of use: of each example its `encoded_texts`.
    """

    ids: np.ndarray
    starts: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, examples: Sequence[Example], encode: Encode) -> TokenizedTexts:
        """Encode the `encoded_texts` of all `examples`."""
        known: dict[str, int] = {}
        found: list[np.ndarray] = []
        order: list[int] = []
        for text in chain.from_iterable(one.encoded_texts for one in examples):
            number = known.setdefault(text, len(known))
            if number == len(found):
                found.append(np.asarray(encode(text), dtype=np.int32))
            order.append(number)
        starts = np.cumsum([0, *map(len, found)], dtype=np.int64)
        ids = np.concatenate([np.zeros(0, np.int32), *found])
        return cls(ids, starts, np.asarray(order, dtype=np.int64))

    @classmethod
    def load(cls, path: Path, examples: Sequence[Example]) -> TokenizedTexts:
        """Read what `to_bytes` gave; UserError where it is damaged or of other examples."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            found = cls(**load_file(path))
        except (SafetensorError, OSError, TypeError) as error:
            raise UserError(
                f"{path}: not the encoded texts of a task ({error}); run the encode stage again"
            ) from error
        wanted = sum(len(example.encoded_texts) for example in examples)
        if len(found.texts) != wanted:
            raise UserError(
                f"{path.name}: {len(found.texts)} texts encoded, expected {wanted} as in the"
                " examples; run the encode stage again"
            )
        return found

    def to_bytes(self) -> bytes:
        """A safetensors file; the same bytes for the same ids."""
        from safetensors.numpy import save

        return save({"ids": self.ids, "starts": self.starts, "texts": self.texts})

    def select(self, examples: Sequence[Example], places: Sequence[int]) -> TokenizedTexts:
        """Those of the examples at `places`, of the `examples` this was made from."""
        chosen = np.zeros(len(examples), dtype=bool)
        chosen[list(places)] = True
        used = np.repeat(chosen, [len(example.encoded_texts) for example in examples])
        return TokenizedTexts(self.ids, self.starts, self.texts[used])

    def __getitem__(self, place: int) -> Ids:
        text = self.texts[place]
        return self.ids[self.starts[text] : self.starts[text + 1]].tolist()


# The input transforms (section 3.3, figure 1): ids of texts in, ids of whole sequences out.
# A sequence is `start ... extract`; its last id is always the extract token, whatever was cut.


@dataclass(frozen=True)
class SpecialIds:
    """The three special tokens, in this order right after the vocabulary."""

    start: int
    delimiter: int
    extract: int

    @classmethod
    def after(cls, vocabulary_size: int) -> SpecialIds:
        """The special ids of a vocabulary of that size (40,478: 40478, 40479, 40480)."""
        return cls(vocabulary_size, vocabulary_size + 1, vocabulary_size + 2)


@dataclass(frozen=True)
class LabelWords:
    """The ids of a task's prompt, and of the word of each class: of one with several tokens the
    first.
    """

    prompt: Ids
    words: Ids

    @classmethod
    def of(cls, task: Task, encode: Encode) -> LabelWords:
        """UserError where two classes would have the same token, or one an unknown one."""
        words = [encode(word)[0] for word in task.label_words]
        if UNKNOWN in words or len(set(words)) < len(words):
            raise UserError(
                f"task {task.name}: the label words {', '.join(task.label_words)} begin with the"
                f" tokens {words} in this vocabulary; expected different known ones: use"
                " `classifier: linear`, or a vocabulary with more merges"
            )
        return cls(encode(task.prompt), words)


@dataclass(frozen=True)
class InputSpec:
    """How examples become sequences: the task's kind, the special tokens, the longest sequence,
    what is cut where, and the prompt that takes the place of the extract token, if any.
    """

    kind: Kind
    special: SpecialIds
    length: int
    truncation: Truncation = "longest_first"
    prompt: Sequence[int] = ()

    @property
    def end(self) -> Sequence[int]:
        """The last ids of each sequence, which are never cut."""
        return self.prompt or [self.special.extract]

    @property
    def fixed(self) -> int:
        """Ids of each part with `truncation: fixed`: 254 of 512, as the released code has it."""
        return min(self.length // 2 - 2, (self.length - 2 - len(self.end)) // 2)


def share_room(lengths: Sequence[int], room: int) -> list[int]:
    """How many ids of each part to keep so that all fit into `room`: what shorter parts leave
    goes to the longer ones.
    """
    kept = [0] * len(lengths)
    left = room
    shortest_first = sorted(range(len(lengths)), key=lambda part: (lengths[part], part))
    for place, part in enumerate(shortest_first):
        parts_left = len(lengths) - place
        # Rounded down, so that of parts equally long the last gets the odd id.
        kept[part] = min(lengths[part], left // parts_left)
        left -= kept[part]
    return kept


def _cut(parts: Sequence[Sequence[int]], room: int) -> list[Ids]:
    kept = share_room([len(part) for part in parts], room)
    return [list(part[:keep]) for part, keep in zip(parts, kept, strict=True)]


def single(text: Sequence[int], spec: InputSpec) -> Ids:
    """start text extract."""
    longest = spec.length - 1 - len(spec.end)
    room = longest if spec.truncation == "longest_first" else spec.fixed
    return [spec.special.start, *text[:room], *spec.end]


def pair(first: Sequence[Sequence[int]], second: Sequence[int], spec: InputSpec) -> Ids:
    """start first delim second extract.

    `first` is one part, or two joined without a delimiter (document and question).

    `fixed` cuts first and second to length/2 - 2 ids each (254 of 512), as the released code
    does; within a first of two parts the room is shared, so that a question is not lost behind a
    long document.
    """
    if spec.truncation == "fixed":
        before, after = _cut(first, spec.fixed), list(second[: spec.fixed])
    else:
        *before, after = _cut([*first, second], spec.length - 2 - len(spec.end))
    start, delimiter = spec.special.start, spec.special.delimiter
    return [start, *chain.from_iterable(before), delimiter, *after, *spec.end]


def sequences(
    spec: InputSpec, texts: Sequence[Sequence[int]], choices: Sequence[Sequence[int]]
) -> list[Ids]:
    """The sequences of one example: one (classification, entailment, generation), both orders
    (similarity), one an answer (choice).

    Generation: start source delim target extract, each with at most half of the room, since the
    length of a text that is still to be generated is not known.
    """
    if spec.kind == "classification":
        return [single(texts[0], spec)]
    if spec.kind == "choice":
        return [pair(texts, choice, spec) for choice in choices]
    if spec.kind == "generation":
        target = choices[0] if choices else ()
        return [pair(texts, target, replace(spec, truncation="fixed"))]
    if spec.kind == "entailment":
        return [pair(texts[:1], texts[1], spec)]
    if spec.kind == "similarity":
        first, second = texts
        return [pair([first], second, spec), pair([second], first, spec)]
    raise ValueError(
        f"tasks of kind {spec.kind!r} are scored without fine-tuning; they have no input transform"
    )


def full_length(
    kind: Kind, texts: Sequence[Sequence[int]], choices: Sequence[Sequence[int]]
) -> int:
    """Ids of the example's longest sequence if nothing were cut."""
    if kind == "classification":
        return len(texts[0]) + 2
    return sum(map(len, texts)) + max(map(len, choices), default=0) + SPECIAL_TOKENS


# Examples and batches


@dataclass(frozen=True)
class TokenizedExample:
    """One example's sequences (one, both orders, or one an answer) and its label."""

    sequences: list[Ids]
    label: float | str

    @property
    def longest(self) -> int:
        """Ids of the longest sequence."""
        return max(map(len, self.sequences))


class TokenizedExamples(Sequence[TokenizedExample]):
    """The examples of a split through their input transform, made when they are asked for: only the
    texts' ids are kept.

    `cut` counts the examples that did not fit into the spec's length.
    """

    def __init__(
        self, examples: Sequence[Example], texts: TokenizedTexts, spec: InputSpec
    ) -> None:
        self._texts, self._spec = texts, spec
        self._labels = [example.truth for example in examples]
        self._shapes = [
            (len(one.texts), len(one.encoded_texts) - len(one.texts)) for one in examples
        ]
        self._first = list(accumulate(map(sum, self._shapes), initial=0))
        self.cut = sum(self._is_cut(place) for place in range(len(examples)))

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, place: int) -> TokenizedExample: ...
    @overload
    def __getitem__(self, place: slice) -> list[TokenizedExample]: ...
    def __getitem__(self, place: int | slice) -> TokenizedExample | list[TokenizedExample]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        return TokenizedExample(sequences(self._spec, *self._parts(place)), self._labels[place])

    def _parts(self, place: int) -> tuple[list[Ids], list[Ids]]:
        texts, choices = self._shapes[place]
        first = self._first[place]
        found = [self._texts[number] for number in range(first, first + texts + choices)]
        return found[:texts], found[texts:]

    def _is_cut(self, place: int) -> bool:
        full = full_length(self._spec.kind, *self._parts(place)) + len(self._spec.end) - 1
        return full > self[place].longest


def make_batch(examples: Sequence[TokenizedExample], regression: bool) -> Batch:
    """Pad to the batch's longest sequence."""
    rows = [sequence for example in examples for sequence in example.sequences]
    lengths = torch.tensor([len(row) for row in rows])
    inside = torch.arange(int(lengths.max())) < lengths[:, None]  # (N, T)
    ids = torch.full(inside.shape, PADDING, dtype=torch.int64)
    ids[inside] = torch.tensor(list(chain.from_iterable(rows)))
    # A text to generate is in the sequence itself.
    numbers = [0 if isinstance(one.label, str) else one.label for one in examples]
    labels = torch.tensor(numbers, dtype=torch.float32 if regression else torch.int64)
    return ids, lengths, labels


# Which examples make a training batch: a pure function of seed and epoch


POOL = 64
"""At most so many batches are sorted by length together.

Pools are drawn at random, at least four an epoch, so that no two epochs have the same batches;
larger ones would save little padding more.
"""


def epoch_batches(
    lengths: Sequence[int], size: int, seed: int, epoch: int, group_by_length: bool
) -> list[list[int]]:
    """The places of each batch's examples, `size` a batch; `lengths` are the examples' longest
    sequences in ids.

    The rest of an epoch that fills no batch is left out, as in the released code: others in each
    epoch. With `group_by_length` those of like length of a pool's random examples go together, and
    the batches are shuffled; else they follow the order.
    """
    order = torch.randperm(len(lengths), generator=generator("order", seed, epoch)).tolist()
    order = order[: len(lengths) // size * size]
    if group_by_length:
        pool = size * max(1, min(POOL, len(order) // (4 * size)))
        pools = (order[start : start + pool] for start in range(0, len(order), pool))
        order = [
            place for drawn in pools for place in sorted(drawn, key=lambda place: lengths[place])
        ]
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    if not group_by_length:
        return batches
    shuffled = torch.randperm(len(batches), generator=generator("batches", seed, epoch)).tolist()
    return [batches[place] for place in shuffled]
