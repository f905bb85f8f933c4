"""Checkpoints that are either whole or do not count, written beside the training.

All ranks copy their share at a step's end and go on; a thread of each writes, syncs and hashes its files in a private folder and
leaves a list. When all lists are there, rank 0's thread writes the record, last, and renames the folder. At most one checkpoint
is in flight. A folder without a record, or whose files differ from it, is passed over with a warning.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.train.aside import Aside
from gpt1.train.checkpoint_record import HISTORY, Checkpoint, Listing, list_file, read_checkpoint, sync, write_record, write_synced
from gpt1.train.engine import Write
from gpt1.train.ranks import Ranks

PRIVATE = ".writing-"
LISTING = ".listing-"
PATIENCE = 1800.0  # seconds that rank 0 waits for another rank's files
Say = Callable[[str], None]
Fits = Callable[[Checkpoint], bool]


def any_fits(_: Checkpoint) -> bool:
    """All checkpoints do."""
    return True


@dataclass(frozen=True)
class Keep:
    """Which of our own checkpoints stay: the `newest` so many, and those whose step is a multiple of `every` (0: no others)."""

    newest: int = 2
    every: int = 0


class Checkpoints:
    """The checkpoints of one run: its `own` folder, to which it writes, and those of `earlier` attempts, which it only reads."""

    def __init__(self, own: Path, earlier: Sequence[Path], keep: Keep, ranks: Ranks, say: Say) -> None:
        self.own = own
        self.folders = [*earlier, own]
        self.keep = keep
        self.ranks = ranks
        self.say = say
        self._aside = Aside("checkpoint")
        if ranks.first:
            own.mkdir(parents=True, exist_ok=True)
            for left_over in own.glob(f"{PRIVATE}*"):
                shutil.rmtree(left_over, ignore_errors=True)

    def newest(self, fits: Fits = any_fits) -> Checkpoint | None:
        """The newest whole checkpoint of all folders that `fits`, the same on every rank. Its files' hashes have been checked."""
        return self.ranks.from_first(self._newest(fits) if self.ranks.first else None)

    def _newest(self, fits: Fits) -> Checkpoint | None:
        for folder in sorted_candidates(self.folders):
            found = read_checkpoint(folder)
            if isinstance(found, Checkpoint):
                if fits(found):
                    return found
                continue
            self.say(f"warning: checkpoint {folder} is passed over: {found}; the one before is used")
        return None

    def save(
        self,
        step: int,
        facts: Mapping[str, Any],
        history: str,
        snapshots: Mapping[str, str],
        copy: Callable[[Path], list[Write]],
    ) -> None:
        """Begin the checkpoint after `step` updates; waits for the one before, and raises what went wrong with it.

        `copy(folder)` is called on every rank and returns what writes its files. `snapshots` (name -> sha256) are files of
        `snapshots/` beside the checkpoints, without which this one is not whole.
        """
        self._aside.wait()
        name = self.ranks.from_first(f"{PRIVATE}{step:08d}-{uuid.uuid4().hex[:8]}")
        private = self.own / name
        private.mkdir(parents=True, exist_ok=True)
        writes = copy(private)
        record = {"step": step, "facts": dict(facts), "snapshots": dict(snapshots)}
        self._aside.begin(lambda: self._write(private, writes, record, history))

    def finish(self) -> None:
        """Wait until the one in flight is whole. All ranks must call it."""
        self._aside.wait()
        self.ranks.barrier()

    def _write(self, private: Path, writes: Sequence[Write], record: Mapping[str, Any], history: str) -> None:
        listed: Listing = {}
        for write in writes:
            listed |= list_file(private, write())
        if not self.ranks.first:
            write_synced(private / f"{LISTING}{self.ranks.rank}", json.dumps(listed))
            return
        for rank in range(1, self.ranks.world):
            listed |= _await_listing(private / f"{LISTING}{rank}")
        (private / HISTORY).write_text(history, encoding="utf-8")
        write_record(private, record, listed)
        _publish(private, self.own / f"step-{record['step']:08d}")
        self._forget_old()

    def _forget_old(self) -> None:
        for folder in sorted_candidates([self.own])[self.keep.newest :]:
            if self.keep.every and step_of(folder) % self.keep.every == 0:
                continue
            doomed = folder.with_name(f"{PRIVATE}{folder.name}")  # renamed first: half a checkpoint must not look whole
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def sorted_candidates(folders: Sequence[Path]) -> list[Path]:
    """All published checkpoint folders, newest step first; of one step, that of the latest attempt first."""
    found = []
    for age, folder in enumerate(folders):
        names = (path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())
        found += [(step_of(path), age, path) for path in names]
    return [path for _, _, path in sorted(found, reverse=True)]


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step-"))


def _await_listing(file: Path) -> Listing:
    deadline = time.monotonic() + PATIENCE
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{file}: another rank did not write its share of the checkpoint within {PATIENCE:g} s")
        time.sleep(0.005)
    listed: Listing = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return listed


def _publish(private: Path, final: Path) -> None:
    if final.exists():  # a damaged one of the same step, that was passed over
        doomed = final.with_name(f"{PRIVATE}{uuid.uuid4().hex[:8]}")
        final.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    private.rename(final)
    sync(final.parent)
