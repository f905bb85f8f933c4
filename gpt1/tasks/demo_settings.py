"""What the demo tasks share: their settings and names."""

from __future__ import annotations

import random
from dataclasses import dataclass

from gpt1.tasks.example import Example
from gpt1.tasks.passages import Passage

FEWEST = 20
"""With fewer examples than this in train or dev a demo task is refused."""

Books = dict[str, list[Passage]]
"""The passages of each book."""


@dataclass(frozen=True)
class DemoSettings:
    """Examples wanted (fewer are made where the corpus has no more), words a passage (exactly), and the seed of every choice."""

    train: int
    dev: int
    words: int
    seed: int

    def rng(self, purpose: str) -> random.Random:
        """Random choices for one purpose. A text seeds through SHA-512: the same on every machine."""
        return random.Random(f"{purpose}/{self.seed}")


def book_of(example: Example) -> str:
    """The book an example's first passage stands in."""
    return example.id.rpartition("#")[0]


def example_name(passage: Passage) -> str:
    """The id of an example made from a passage."""
    return f"{passage.book}#{passage.index}"
