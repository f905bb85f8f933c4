"""How training speaks, and is spoken to.

The same calls as a stage's reporter, so that one can be handed in; `gpt1` only prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Rank 0 calls it; the other ranks are silent."""

    def info(self, text: str) -> None:
        """One line for the person watching."""
        ...

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """How far it is, with the step line as the note."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of one or more curves."""
        ...

    def should_stop(self) -> bool:
        """Whether training is to end with a checkpoint. Called once a step, so it must not wait."""
        ...


class PrintReporter:
    """Prints lines and progress notes: for `torchrun` and tests."""

    def info(self, text: str) -> None:
        print(text, flush=True)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        print(note or f"{done:g}/{total:g} {unit}", flush=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Curves are in metrics.jsonl; there is nothing to print."""

    def should_stop(self) -> bool:
        return False  # under torchrun each rank has signals of its own
