"""The record of a checkpoint: written last, it lists every file with size and sha256; without
it, or against it, nothing counts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.paths import leads_out

RECORD = "record.json"
HISTORY = "history.json"
FORMAT = 1
Listing = dict[str, dict[str, Any]]
"""File name -> size and sha256."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: what the record says, and where it lies."""

    folder: Path
    step: int
    facts: Mapping[str, Any]

    def history(self) -> str:
        """The history's JSON as it was saved."""
        return (self.folder / HISTORY).read_text(encoding="utf-8")


def list_file(folder: Path, path: Path) -> Listing:
    """Sync a file and describe it."""
    sync(path)
    return {str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)}}


def write_record(folder: Path, values: Mapping[str, Any], listed: Listing) -> None:
    """Sync and list the files of `folder` that are not `listed` yet, then write the record."""
    files = dict(listed)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and str(path.relative_to(folder)) not in files:
            files |= list_file(folder, path)
    record = {"format": FORMAT, **values, "files": files}
    write_synced(folder / RECORD, json.dumps(record, indent=2, sort_keys=True))
    sync(folder)


def read_checkpoint(folder: Path) -> Checkpoint | str:
    """The checkpoint in `folder`, or why it is not whole."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"its {RECORD} cannot be read ({error})"
    try:
        if record.get("format") != FORMAT:
            return f"its format is {record.get('format')!r}, expected {FORMAT}"
        if trouble := refuse_outside(record):
            return trouble
        expected = {folder / name: entry["sha256"] for name, entry in record["files"].items()}
        snapshots = folder.parent.parent / "snapshots"
        expected |= {snapshots / name: digest for name, digest in record["snapshots"].items()}
        found = Checkpoint(folder, record["step"], record["facts"])
        if folder.name != f"step-{found.step:08d}":
            return f"its {RECORD} belongs to step {found.step}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return f"its {RECORD} is not a checkpoint's record ({error!r})"
    for path, digest in expected.items():
        if not path.is_file():
            return f"{path.name} is missing"
        if sha256(path) != digest:
            return f"{path.name} is damaged (its sha256 is not the recorded one)"
    return found


def refuse_outside(record: Mapping[str, Any]) -> str | None:
    """Why a record is refused whose files would lie outside the checkpoint's folders; None where
    all are inside.
    """
    wrong = [name for name in (*record["files"], *record["snapshots"]) if leads_out(name)]
    return (
        f"its {RECORD} names the file {wrong[0]!r}, which is outside its folder" if wrong else None
    )


def write_synced(path: Path, text: str) -> None:
    """Write a file under another name, sync it, rename it: it is whole or not there."""
    draft = path.with_name(f".draft-{path.name}")
    draft.write_text(text, encoding="utf-8")
    sync(draft)
    draft.rename(path)


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
