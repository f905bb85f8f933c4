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
class Size:
    """How large a demo task is made where the settings do not say: examples wanted, and words a
    passage.
    """

    train: int
    dev: int
    words: int


SIZES = {
    "demo_choice": Size(2000, 1000, 16), "demo_entailment": Size(2400, 2000, 28),
    "demo_similarity": Size(1800, 1200, 28), "demo_author": Size(1500, 480, 40),
}
"""What a small model can learn in about half a minute on one core (dev/LOG.md).

Whether two texts belong together is the hardest for it: those tasks have many dev examples, so that
a small lead over chance is still told from luck.
"""


@dataclass(frozen=True)
class DemoSettings:
    """Examples wanted (fewer are made where the corpus has no more), words a passage (exactly),
    and the seed of every choice.
    """

    train: int
    dev: int
    words: int
    seed: int

    def rng(self, purpose: str) -> random.Random:
        """Random choices for one purpose.

        A text seeds through SHA-512: the same on every machine.
        """
        return random.Random(f"{purpose}/{self.seed}")


def book_of(example: Example) -> str:
    """The book an example's first passage stands in."""
    return example.id.rpartition("#")[0]


def example_name(passage: Passage) -> str:
    """The id of an example made from a passage."""
    return f"{passage.book}#{passage.index}"
