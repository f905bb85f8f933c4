"""Checkpoints that are either whole or do not count.

A checkpoint is written to a private folder; when every rank has written, rank 0 syncs and hashes its files, writes the record that
lists them last, and renames the folder. A folder without a record, or whose files differ from it, is passed over with a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.train.ranks import Ranks

RECORD = "record.json"
HISTORY = "history.json"
FORMAT = 1
PRIVATE = ".writing-"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: what the record says, and where it lies."""

    folder: Path
    step: int
    facts: Mapping[str, Any]

    def history(self) -> str:
        """The history's JSON as it was saved."""
        return (self.folder / HISTORY).read_text(encoding="utf-8")


class Checkpoints:
    """The checkpoints of one run: its `own` folder, to which it writes, and those of `earlier` attempts, which it only reads."""

    def __init__(self, own: Path, earlier: Sequence[Path], keep: int, ranks: Ranks, say: Say) -> None:
        self.own = own
        self.folders = [*earlier, own]
        self.keep = keep
        self.ranks = ranks
        self.say = say
        if ranks.first:
            own.mkdir(parents=True, exist_ok=True)
            for left_over in own.glob(f"{PRIVATE}*"):
                shutil.rmtree(left_over, ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint of all folders, the same on every rank. Its files' hashes have been checked."""
        return self.ranks.from_first(self._newest() if self.ranks.first else None)

    def _newest(self) -> Checkpoint | None:
        for folder in sorted_candidates(self.folders):
            found = read_checkpoint(folder)
            if isinstance(found, Checkpoint):
                return found
            self.say(f"warning: checkpoint {folder} is passed over: {found}; the one before is used")
        return None

    def save(
        self, step: int, facts: Mapping[str, Any], history: str, snapshots: Mapping[str, str], write: Callable[[Path], None]
    ) -> None:
        """Make the checkpoint after `step` updates. `write(folder)` is called on every rank.

        `snapshots` (name -> sha256) are files of `snapshots/` beside the checkpoints, without which this one is not whole.
        """
        name = self.ranks.from_first(f"{PRIVATE}{step:08d}-{uuid.uuid4().hex[:8]}")
        private = self.own / name
        private.mkdir(parents=True, exist_ok=True)
        write(private)
        self.ranks.barrier()
        if self.ranks.first:
            (private / HISTORY).write_text(history, encoding="utf-8")
            write_record(private, {"step": step, "facts": dict(facts), "snapshots": dict(snapshots)})
            _publish(private, self.own / f"step-{step:08d}")
            self._forget_old()

    def _forget_old(self) -> None:
        """Keep the newest `keep` of our own."""
        for folder in sorted_candidates([self.own])[self.keep :]:
            doomed = folder.with_name(f"{PRIVATE}{folder.name}")  # renamed first: half a checkpoint must not look whole
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def sorted_candidates(folders: Sequence[Path]) -> list[Path]:
    """All published checkpoint folders, newest step first; of one step, that of the latest attempt first."""
    found = []
    for age, folder in enumerate(folders):
        names = (path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())
        found += [(int(path.name.removeprefix("step-")), age, path) for path in names]
    return [path for _, _, path in sorted(found, reverse=True)]


def write_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Sync and hash every file of `folder`, then write the record that lists them."""
    files = {}
    for path in _files(folder):
        sync(path)
        files[str(path.relative_to(folder))] = {"size": path.stat().st_size, "sha256": sha256(path)}
    record = json.dumps({"format": FORMAT, **values, "files": files}, indent=2, sort_keys=True)
    draft = folder / f".{RECORD}"
    draft.write_text(record, encoding="utf-8")
    sync(draft)
    draft.rename(folder / RECORD)
    sync(folder)


def read_checkpoint(folder: Path) -> Checkpoint | str:
    """The checkpoint in `folder`, or why it is not whole."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"its {RECORD} cannot be read ({error})"
    if record.get("format") != FORMAT:
        return f"its format is {record.get('format')!r}, expected {FORMAT}"
    expected = {folder / name: entry["sha256"] for name, entry in record["files"].items()}
    expected |= {folder.parent.parent / "snapshots" / name: digest for name, digest in record["snapshots"].items()}
    for path, digest in expected.items():
        if not path.is_file():
            return f"{path.name} is missing"
        if sha256(path) != digest:
            return f"{path.name} is damaged (its sha256 is not the recorded one)"
    return Checkpoint(folder, record["step"], record["facts"])


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make sure a file's, or a folder's, contents are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _publish(private: Path, final: Path) -> None:
    if final.exists():  # a damaged one of the same step, that was passed over
        doomed = final.with_name(f"{PRIVATE}{uuid.uuid4().hex[:8]}")
        final.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    private.rename(final)
    sync(final.parent)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
