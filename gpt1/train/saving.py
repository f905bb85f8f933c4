"""Saving beside the training: all ranks copy their share at a step's end and go on; a thread of
each writes it.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.train.aside import Aside
from gpt1.train.checkpoint_record import Checkpoint
from gpt1.train.engine import Write
from gpt1.train.ranks import Ranks

LISTING = ".listing-"
PATIENCE = 1800.0  # seconds that rank 0 waits for another rank's files
Say = Callable[[str], None]
Fits = Callable[[Checkpoint], bool]


def any_fits(_: Checkpoint) -> bool:
    """All checkpoints do."""
    return True


@dataclass(frozen=True)
class Keep:
    """Which of our own checkpoints stay: the `newest` so many, and those whose step is a
    multiple of `every` (0: no others).
    """

    newest: int = 2
    every: int = 0


@dataclass(frozen=True)
class Draft:
    """A rank's share of a checkpoint that is being written.

    `nonce` is the same on all ranks, and another one at every try.
    """

    step: int
    nonce: str
    folder: Path
    writes: Sequence[Write]
    record: Mapping[str, Any]
    history: str


class Saving(ABC):
    """At most one checkpoint is in flight.

    Subclasses say where its files are drafted, and how they become whole.
    """

    def __init__(self, keep: Keep, ranks: Ranks, info: Say) -> None:
        self.keep = keep
        self.ranks = ranks
        self.info = info
        self._aside = Aside("checkpoint")

    def save(
        self, step: int, facts: Mapping[str, Any], history: str, snapshots: Mapping[str, str],
        copy: Callable[[Path], list[Write]],
    ) -> None:
        """Begin the checkpoint after `step` updates; waits for the one before, and raises what went
        wrong with it.

        `copy(folder)` is called on every rank and returns what writes its files. `snapshots` (name
        -> sha256) are files of `snapshots/` beside the checkpoints, without which this one is not
        whole.
        """
        self._aside.wait()
        nonce = self.ranks.from_first(uuid.uuid4().hex[:8])
        folder = self._open(step, nonce)
        folder.mkdir(parents=True, exist_ok=True)
        record = {"step": step, "facts": dict(facts), "snapshots": dict(snapshots)}
        draft = Draft(step, nonce, folder, copy(folder), record, history)
        self._aside.begin(lambda: self._write(draft))

    def finish(self) -> None:
        """Wait until the one in flight is whole. All ranks must call it."""
        self._aside.wait()
        self.ranks.barrier()

    def forget_after(self, step: int) -> None:
        """Training goes back to `step`: our own checkpoints beyond it belong to a course that is
        given up. All ranks must call it.

        Left there, they would be the newest, and `keep` would take away each new one as soon as it
        is written.
        """
        self.finish()
        if self.ranks.first:
            self._forget_after(step)
        self.ranks.barrier()

    @abstractmethod
    def _open(self, step: int, nonce: str) -> Path:
        """The folder of this host in which the ranks draft their files."""

    @abstractmethod
    def _write(self, draft: Draft) -> None:
        """Write this rank's files; on rank 0, make the checkpoint whole. Runs in a thread."""

    @abstractmethod
    def _forget_after(self, step: int) -> None:
        """Take away our own checkpoints beyond `step`. Called on rank 0, with none in flight."""
