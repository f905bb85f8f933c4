"""The ids of a split's texts: encoded once for a task, and kept, so that every seed and variant
shares them.

Texts come as they are, whole: input transforms and truncation, which depend on the model, come
later. A text that stands in several examples (RACE's passages, a question's document) is encoded
and kept once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpt1.errors import UserError
from gpt1.tasks.example import Example


@dataclass(frozen=True)
class Pieces:
    """`ids` (N,) int32 of all distinct texts; text t is ids[starts[t] : starts[t + 1]]; `texts`
    (P,) says which text each piece is: of each example in turn its texts, then its answers.
    """

    ids: np.ndarray
    starts: np.ndarray
    texts: np.ndarray

    def piece(self, place: int) -> list[int]:
        """The ids of a piece."""
        text = self.texts[place]
        return self.ids[self.starts[text] : self.starts[text + 1]].tolist()


def encode_pieces(examples: Sequence[Example], encode: Callable[[str], list[int]]) -> Pieces:
    """Encode all texts and answers of `examples`."""
    known: dict[str, int] = {}
    found: list[np.ndarray] = []
    order: list[int] = []
    for example in examples:
        for text in (*example.texts, *example.choices):
            number = known.setdefault(text, len(known))
            if number == len(found):
                found.append(np.asarray(encode(text), dtype=np.int32))
            order.append(number)
    starts = np.cumsum([0, *map(len, found)], dtype=np.int64)
    return Pieces(
        np.concatenate([np.zeros(0, np.int32), *found]), starts, np.asarray(order, dtype=np.int64)
    )


def pieces_bytes(pieces: Pieces) -> bytes:
    """A safetensors file; the same bytes for the same ids."""
    from safetensors.numpy import save

    return save({"ids": pieces.ids, "starts": pieces.starts, "texts": pieces.texts})


def load_pieces(path: Path, examples: Sequence[Example]) -> Pieces:
    """Read what `pieces_bytes` gave; UserError where it is missing, damaged or of other
    examples.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not the encoded texts of a task ({error}); run the encode stage again"
        ) from error
    pieces = Pieces(found["ids"], found["starts"], found["texts"])
    wanted = sum(len(example.texts) + len(example.choices) for example in examples)
    if len(pieces.texts) != wanted:
        raise UserError(
            f"{path.name}: {len(pieces.texts)} texts encoded, expected {wanted} as in the examples;"
            " run the encode stage again"
        )
    return pieces


def select_pieces(pieces: Pieces, examples: Sequence[Example], places: Sequence[int]) -> Pieces:
    """The pieces of some of the `examples` that `pieces` was made from, those at `places`."""
    sizes = [len(example.texts) + len(example.choices) for example in examples]
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[list(places)] = True
    return Pieces(pieces.ids, pieces.starts, pieces.texts[np.repeat(chosen, sizes)])
