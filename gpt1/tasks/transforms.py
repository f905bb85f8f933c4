"""The four input transforms (paper, section 3.3, figure 1): ids of texts in, ids of whole
sequences out.

A sequence is `start … extract`; its last id is always the extract token, whatever was cut. Right
padding is added when sequences are put into a batch, never here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gpt1.tasks.registry import Kind

Truncation = Literal["longest_first", "fixed"]
Ids = list[int]


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


SPECIAL_TOKENS = 3
SHORTEST = 16
"""Ids a sequence must have room for; fewer leave no text beside the special tokens."""


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
    return [
        list(part[:keep])
        for part, keep in zip(parts, share_room([len(part) for part in parts], room), strict=True)
    ]


def single(
    text: Sequence[int], special: SpecialIds, context: int, truncation: Truncation = "longest_first"
) -> Ids:
    """start text extract."""
    room = context - 2 if truncation == "longest_first" else context // 2 - 2
    return [special.start, *text[:room], special.extract]


def pair(
    first: Sequence[Sequence[int]], second: Sequence[int], special: SpecialIds, context: int,
    truncation: Truncation = "longest_first",
) -> Ids:
    """start first delim second extract.

    `first` is one part, or two joined without a delimiter (document and question).

    `reference` cuts first and second to context/2 - 2 ids each (254 of 512), as the released code
    does; within a first of two parts the room is shared, so that a question is not lost behind a
    long document.
    """
    if truncation == "fixed":
        each = context // 2 - 2
        before, after = _cut(first, each), list(second[:each])
    else:
        *before, after = _cut([*first, second], context - SPECIAL_TOKENS)
    return [
        special.start, *(i for part in before for i in part), special.delimiter, *after,
        special.extract,
    ]


def sequences(
    kind: Kind, texts: Sequence[Sequence[int]], choices: Sequence[Sequence[int]],
    special: SpecialIds, context: int, truncation: Truncation = "longest_first",
) -> list[Ids]:
    """The sequences of one example: one (classification, entailment), both orders (similarity),
    one an answer (choice).
    """
    if kind == "classification":
        return [single(texts[0], special, context, truncation)]
    if kind == "choice":
        return [pair(texts, choice, special, context, truncation) for choice in choices]
    if kind == "entailment":
        return [pair(texts[:1], texts[1], special, context, truncation)]
    if kind == "similarity":
        first, second = texts
        return [
            pair([first], second, special, context, truncation),
            pair([second], first, special, context, truncation),
        ]
    raise ValueError(
        f"tasks of kind {kind!r} are scored without fine-tuning; they have no input transform"
    )


def full_length(
    kind: Kind, texts: Sequence[Sequence[int]], choices: Sequence[Sequence[int]]
) -> int:
    """Ids of the example's longest sequence if nothing were cut."""
    if kind == "classification":
        return len(texts[0]) + 2
    return sum(map(len, texts)) + max(map(len, choices), default=0) + SPECIAL_TOKENS
