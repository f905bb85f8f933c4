"""Checkpoints that are either whole or do not count, written beside the training.

Each rank's thread writes, syncs and hashes its files in a private folder and leaves a list. When
all lists are there, rank 0's thread writes the record, last, and renames the folder. A folder
without a record, or whose files differ from it, is passed over with a warning.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from gpt1 import fault
from gpt1.train.checkpoint_record import (
    HISTORY,
    Checkpoint,
    Listing,
    list_file,
    read_checkpoint,
    sync,
    write_record,
    write_synced,
)
from gpt1.train.ranks import Ranks
from gpt1.train.saving import LISTING, PATIENCE, Draft, Fits, Keep, Saving, Say, any_fits

PRIVATE = ".writing-"


class Checkpoints(Saving):
    """The checkpoints of one run: its `own` folder, to which it writes, and those of
    `previous_attempts` attempts, which it only reads.
    """

    def __init__(
        self, own: Path, earlier: Sequence[Path], keep: Keep, ranks: Ranks, info: Say
    ) -> None:
        super().__init__(keep, ranks, info)
        self.own = own
        self.folders = [*earlier, own]
        if ranks.first:
            own.mkdir(parents=True, exist_ok=True)
            for left_over in own.glob(f"{PRIVATE}*"):
                shutil.rmtree(left_over, ignore_errors=True)

    def newest(self, fits: Fits = any_fits) -> Checkpoint | None:
        """The newest whole checkpoint of all folders that `fits`, the same on every rank.

        Its files' hashes have been checked.
        """
        return self.ranks.from_first(self._newest(fits) if self.ranks.first else None)

    def _newest(self, fits: Fits) -> Checkpoint | None:
        for folder in sorted_candidates(self.folders):
            found = read_checkpoint(folder)
            if isinstance(found, Checkpoint):
                if fits(found):
                    return found
                continue
            self.info(
                f"warning: skipped checkpoint {folder}: {found}; using the one before it"
            )
        return None

    def _open(self, step: int, nonce: str) -> Path:
        return self.own / f"{PRIVATE}{step:08d}-{nonce}"

    def _write(self, draft: Draft) -> None:
        private, listed = draft.folder, Listing()
        for write in draft.writes:
            listed |= list_file(private, write())
        if not self.ranks.first:
            write_synced(private / f"{LISTING}{self.ranks.rank}", json.dumps(listed))
            return
        for rank in range(1, self.ranks.world):
            listed |= _await_listing(private / f"{LISTING}{rank}")
        (private / HISTORY).write_text(draft.history, encoding="utf-8")
        fault.point("checkpoint.written")
        write_record(private, draft.record, listed)
        fault.point("checkpoint.recorded")
        _publish(private, self.own / f"step-{draft.step:08d}")
        fault.point("checkpoint.published")
        self._forget_old()

    def _forget_old(self) -> None:
        for folder in sorted_candidates([self.own])[self.keep.newest :]:
            if self.keep.every and step_of(folder) % self.keep.every == 0:
                continue
            _forget(folder)

    def _forget_after(self, step: int) -> None:
        for folder in sorted_candidates([self.own]):
            if step_of(folder) > step:
                _forget(folder)


def sorted_candidates(folders: Sequence[Path]) -> list[Path]:
    """All published checkpoint folders, newest step first; of one step, that of the latest
    attempt first.
    """
    found = []
    for age, folder in enumerate(folders):
        names = (
            path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit()
        )
        found += [(step_of(path), age, path) for path in names]
    return [path for _, _, path in sorted(found, reverse=True)]


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removeprefix("step-"))


def _await_listing(file: Path) -> Listing:
    deadline = time.monotonic() + PATIENCE
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{file}: another rank did not write its share of the checkpoint within"
                f" {PATIENCE:g} s"
            )
        time.sleep(0.005)
    listed: Listing = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return listed


def _forget(folder: Path) -> None:
    doomed = folder.with_name(
        f"{PRIVATE}{uuid.uuid4().hex[:8]}"
    )  # renamed first: half a checkpoint must not look whole
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _publish(private: Path, final: Path) -> None:
    if final.exists():  # a damaged one of the same step, that was passed over
        _forget(final)
    private.rename(final)
    sync(final.parent)
