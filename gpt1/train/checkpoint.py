"""Checkpoints of a training: complete, or skipped.

There is one form for every number of ranks and every ZeRO stage. ATTEMPT/checkpoints/step-NNNNNNNN/
holds

    state.safetensors   fp32 weights and both moments by parameter name, and the number of updates
    history.json        what the training has reported so far
    manifest.json       step, facts, size and sha256 of both files and of the snapshots they need
                        (ATTEMPT/snapshots/), and the sha256 of the manifest's own content

States of a checkpoint:

    gathered    all ranks have passed their shares to rank 0, which has a copy; training continues
    written     the writer thread of rank 0 has written both files in a private folder
    recorded    the manifest is in the private folder, too
    published   the storage has the files, synced, and last the manifest: from now on it counts
    deleted     by the RetentionPolicy or by `delete_after`, the manifest first

A process that dies in between leaves files without a manifest; the next checkpoint of that step
replaces them. A reader takes the newest checkpoint whose every byte is as recorded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from gpt1 import fault
from gpt1.errors import UserError
from gpt1.paths import leads_out

if TYPE_CHECKING:  # the stages' contract imports this file, and must not import torch
    from torch import Tensor

    from gpt1.train.dist import DistContext

CHECKPOINTS, SNAPSHOTS = "checkpoints", "snapshots"
STATE, HISTORY, MANIFEST = "state.safetensors", "history.json", "manifest.json"
WEIGHTS = "weights"
PRIVATE = ".private-"
_FILE = re.compile(r"step-(\d{8,})/([^/]+)")
_METADATA = "gpt1_training"


class DamagedCheckpoint(Exception):
    """Why a checkpoint does not count; the text follows its name."""


# What a checkpoint holds


@dataclass
class TrainingState:
    """What an update changes: the `parts` (WEIGHTS, and each of the optimizer's moments) by
    parameter name, fp32 on the CPU, and the number of `updates` that the optimizer counted. Random
    state and data position follow from the step (docs/explanation/training.md).
    """

    updates: int = 0
    parts: dict[str, dict[str, Tensor]] = field(default_factory=lambda: defaultdict(dict))


def write_state(file: Path, state: TrainingState) -> None:
    """Write `state`; tensors are named `weights/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`."""
    from gpt1.weights.store import write_tensors

    tensors = {
        f"{part}/{name}": tensor
        for part, values in state.parts.items()
        for name, tensor in values.items()
    }
    write_tensors(file, tensors, {_METADATA: json.dumps({"updates": state.updates})})


def read_state(file: Path) -> TrainingState:
    """The state in a file. Raises DamagedCheckpoint when it is none."""
    try:
        with safe_open(file, framework="pt") as handle:
            state = TrainingState(json.loads(handle.metadata()[_METADATA])["updates"])
            for key in handle.keys():  # noqa: SIM118
                part, _, name = key.partition("/")
                state.parts[part][name] = handle.get_tensor(key)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{file.name} is not a training state ({error!r})") from None
    return state


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. `history` is as it was saved; `state` is on rank 0 only."""

    folder: Path
    step: int
    facts: CheckpointFacts
    history: str
    state: TrainingState | None = None


# The manifest


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CheckpointFacts(_Record):
    """The training that wrote a checkpoint: its configuration as JSON values, the number of ranks,
    and the ZeRO stage in force.
    """

    config: dict[str, Any]
    ranks: int
    zero: int


class FileDigest(_Record):
    """Size in bytes and SHA-256 (hexadecimal) of a file."""

    size: int
    sha256: str


class Manifest(_Record):
    """What manifest.json records."""

    format: Literal[1] = 1
    step: int
    facts: CheckpointFacts
    files: dict[str, FileDigest]
    snapshots: dict[str, FileDigest]

    def to_bytes(self) -> bytes:
        """As JSON, with the sha256 of its content."""
        content = self.model_dump()
        signed = {**content, "sha256": content_sha256(content)}
        return json.dumps(signed, indent=2, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """The inverse of `to_bytes`. Raises DamagedCheckpoint for anything else."""
        try:
            content = json.loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise DamagedCheckpoint(f"{MANIFEST} cannot be read ({error})") from None
        if not isinstance(content, dict) or content.pop("sha256", None) != content_sha256(content):
            raise DamagedCheckpoint(f"{MANIFEST} is damaged (its content has another sha256)")
        try:
            found = cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise DamagedCheckpoint(f"{MANIFEST}: {where}: {first['msg']}") from None
        for name in found.snapshots:
            if leads_out(name) or "/" in name:
                raise DamagedCheckpoint(f"{MANIFEST} names {name!r}, which is outside its folder")
        if found.files.keys() != {STATE, HISTORY}:
            raise DamagedCheckpoint(f"{MANIFEST} lists {', '.join(found.files) or 'no file'}")
        return found


def content_sha256(content: Mapping[str, Any]) -> str:
    """Of JSON values, independent of spaces and of the order of keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


# Where checkpoints are kept


class CheckpointStorage(Protocol):
    """Files that all ranks' hosts can reach. A folder is named by its path on this host; names are
    relative to it. Each call replaces or reads a file completely.
    """

    def list(self, folder: Path) -> Sequence[str]:
        """The names of all files below a folder."""
        ...

    def upload(self, folder: Path, name: str, file: Path) -> None:
        """Store `file` as `name`, safe from a power cut. It may be moved there."""
        ...

    def download(self, folder: Path, name: str, file: Path) -> Path | None:
        """Write what is stored as `name` to `file`, and return it; or the stored file itself,
        where it is on this host. None when there is no such name.
        """
        ...

    def read(self, folder: Path, name: str) -> bytes | None:
        """What is stored as `name`, or None."""
        ...

    def delete(self, folder: Path, names: Sequence[str]) -> None:
        """Delete files, in this order."""
        ...


class FolderStorage:
    """The storage of hosts that share a disk: the folders themselves."""

    def list(self, folder: Path) -> Sequence[str]:
        return [
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        ]

    def upload(self, folder: Path, name: str, file: Path) -> None:
        sync(file)
        folder.mkdir(parents=True, exist_ok=True)
        file.replace(folder / name)
        for place in (folder, folder.parent, folder.parent.parent):
            sync(place)

    def download(self, folder: Path, name: str, file: Path) -> Path | None:  # noqa: ARG002
        return folder / name if (folder / name).is_file() else None

    def read(self, folder: Path, name: str) -> bytes | None:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, folder: Path, names: Sequence[str]) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # there are other files in it
            folder.rmdir()


# Saving and loading


@dataclass(frozen=True)
class RetentionPolicy:
    """Which checkpoints of an attempt are kept: the `newest` ones, and those whose step is a
    multiple of `every` (0: no others).
    """

    newest: int = 2
    every: int = 0


Fits = Callable[[Checkpoint], bool]


class CheckpointManager:
    """The checkpoints of one training. All ranks have one and make the same calls.

    Rank 0 alone reads and writes. It writes to `output`/checkpoints; `earlier` are the checkpoints
    folders of earlier attempts, oldest first, which it only reads. At most one checkpoint is in
    flight: the next call waits for it, and raises what the writer thread raised.
    """

    def __init__(
        self, output: Path, earlier: Sequence[Path], retention: RetentionPolicy, ranks: DistContext,
        info: Callable[[str], None], storage: CheckpointStorage | None = None,
    ) -> None:
        self.output = output
        self.folder = output / CHECKPOINTS
        self.folders = [*earlier, self.folder]
        self.retention = retention
        self.ranks = ranks
        self.info = info
        self.storage = storage or FolderStorage()
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._in_flight: Future[None] | None = None
        self._uploaded: dict[str, str] = {}
        """Snapshots in the storage, with their sha256: after a rollback, one of the same name may
        have other weights.
        """
        if ranks.is_main:
            output.mkdir(parents=True, exist_ok=True)
            for left_over in output.glob(f"{PRIVATE}*"):
                shutil.rmtree(left_over, ignore_errors=True)

    def save(
        self, step: int, facts: CheckpointFacts, history: str, snapshots: Mapping[str, str],
        gather: Callable[[], TrainingState | None],
    ) -> None:
        """Begin the checkpoint after `step` updates; returns when the state has been copied.

        `gather` is called on every rank, once the checkpoint before is complete, and returns the
        state on rank 0. `snapshots` (name -> sha256) are the files of `output`/snapshots without
        which the checkpoint is not complete.
        """
        self.wait()
        state = gather()
        if state is not None:
            self._in_flight = self._writer.submit(
                self._write, step, facts, history, dict(snapshots), state
            )

    def wait(self) -> None:
        """Wait until the checkpoint in flight is complete."""
        self.ranks.run_on_all_ranks(self._settle)

    def close(self) -> None:
        """End the writer thread, when it has written what it was given."""
        self._writer.shutdown()

    def latest(self, fits: Fits = lambda _: True) -> Checkpoint | None:
        """The newest complete checkpoint that `fits`, which is asked on rank 0, without a state.

        Its snapshots are put into `output`/snapshots. Damaged ones are skipped with a warning.
        """
        found = self.ranks.run_on_all_ranks(
            lambda: self._latest(fits) if self.ranks.is_main else None
        )
        known: Checkpoint | None = self.ranks.broadcast_object(found and replace(found, state=None))
        return found or known

    def delete_after(self, step: int) -> None:
        """Training goes back to `step`: delete this attempt's later checkpoints.

        They would be the newest, and the RetentionPolicy would delete each new one at once.
        """
        self.wait()
        if self.ranks.is_main:
            for later, names in self._list(self.folder).items():
                if later > step:
                    self._delete(later, names)
        self.ranks.barrier()

    def _settle(self) -> None:
        if self._in_flight is not None:
            in_flight, self._in_flight = self._in_flight, None
            try:
                in_flight.result()
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"{self.folder}: a checkpoint could not be written ({error}); make room, then"
                    " run the same command to resume from the one before it"
                ) from error

    def _write(
        self, step: int, facts: CheckpointFacts, history: str, snapshots: Mapping[str, str],
        state: TrainingState,
    ) -> None:
        """From `gathered` to `published`; runs in the writer thread."""
        target, kept = self.folder / step_name(step), self.output / SNAPSHOTS
        with TemporaryDirectory(dir=self.output, prefix=PRIVATE) as folder:
            private = Path(folder)
            write_state(private / STATE, state)
            (private / HISTORY).write_text(history, encoding="utf-8")
            files = {file: describe_file(private / file) for file in (STATE, HISTORY)}
            if fault.ARMED:
                fault.point("checkpoint.written")
            sizes = {
                name: FileDigest(size=(kept / name).stat().st_size, sha256=sha256)
                for name, sha256 in snapshots.items()
            }
            manifest = Manifest(step=step, facts=facts, files=files, snapshots=sizes)
            (private / MANIFEST).write_bytes(manifest.to_bytes())
            if fault.ARMED:
                fault.point("checkpoint.recorded")
            self._upload_snapshots(snapshots)
            # A damaged checkpoint of the same step must not lend its manifest to new files.
            self.storage.delete(target, [MANIFEST])
            for file in (STATE, HISTORY, MANIFEST):
                self.storage.upload(target, file, private / file)
        if fault.ARMED:
            fault.point("checkpoint.published")
        self._delete_old(step)

    def _upload_snapshots(self, snapshots: Mapping[str, str]) -> None:
        folder = self.output / SNAPSHOTS
        for name, sha256 in snapshots.items():
            if self._uploaded.get(name) != sha256:
                self.storage.upload(folder, name, folder / name)
                self._uploaded[name] = sha256

    def _delete_old(self, newest: int) -> None:
        """Later steps than `newest` are damaged: training resumed from before them."""
        found = {step: names for step, names in self._list(self.folder).items() if step <= newest}
        complete = sorted(step for step, names in found.items() if MANIFEST in names)
        every = self.retention.every
        kept = {step for step in complete if every and step % every == 0}
        kept.update(complete[-self.retention.newest :])
        for step in found.keys() - kept:
            self._delete(step, found[step])

    def _delete(self, step: int, names: Sequence[str]) -> None:
        """The manifest first: what is deleted in part must not look complete."""
        last_first = sorted(names, key=lambda name: name != MANIFEST)
        self.storage.delete(self.folder / step_name(step), last_first)

    def _list(self, folder: Path) -> dict[int, list[str]]:
        """The names of the files of each step there."""
        found = defaultdict(list)
        for match in map(_FILE.fullmatch, self.storage.list(folder)):
            if match:
                found[int(match[1])].append(match[2])
        return found

    def _latest(self, fits: Fits) -> Checkpoint | None:
        # Of one step, that of the latest attempt first.
        steps = [
            (step, age) for age, folder in enumerate(self.folders) for step in self._list(folder)
        ]
        for step, age in sorted(steps, reverse=True):
            folder = self.folders[age] / step_name(step)
            try:
                found = self._read(folder, fits)
            except DamagedCheckpoint as damage:
                self.info(
                    f"warning: skipped checkpoint {folder}: {damage}; using the one before it"
                )
                continue
            if found is not None:
                return found
        return None

    def _read(self, folder: Path, fits: Fits) -> Checkpoint | None:
        """The checkpoint there, if it fits. Raises DamagedCheckpoint."""
        manifest = Manifest.from_bytes(self._read_small(folder, MANIFEST))
        if folder.name != step_name(manifest.step):
            raise DamagedCheckpoint(f"its {MANIFEST} belongs to step {manifest.step}")
        history = self._read_small(folder, HISTORY)
        digest = FileDigest(size=len(history), sha256=hashlib.sha256(history).hexdigest())
        _compare(HISTORY, digest, manifest.files[HISTORY])
        found = Checkpoint(folder, manifest.step, manifest.facts, history.decode())
        if not fits(found):
            return None
        with TemporaryDirectory(dir=self.output, prefix=PRIVATE) as private:
            state = self._fetch(folder, STATE, manifest.files[STATE], Path(private))
            found = replace(found, state=read_state(state))
            for name, expected in manifest.snapshots.items():
                source = folder.parent.parent / SNAPSHOTS
                self._copy_snapshot(source, name, expected, Path(private))
        return found

    def _read_small(self, folder: Path, name: str) -> bytes:
        try:
            data = self.storage.read(folder, name)
        except OSError as error:
            raise DamagedCheckpoint(f"{name} cannot be read ({error.strerror})") from None
        if data is None:
            raise DamagedCheckpoint(f"{name} is missing")
        return data

    def _fetch(self, folder: Path, name: str, expected: FileDigest, private: Path) -> Path:
        """A file of this host with the recorded content. Raises DamagedCheckpoint."""
        file = self.storage.download(folder, name, private / name)
        if file is None:
            raise DamagedCheckpoint(f"{name} is missing")
        try:
            found = describe_file(file)
        except OSError as error:
            raise DamagedCheckpoint(f"{name} cannot be read ({error.strerror})") from None
        _compare(name, found, expected)
        return file

    def _copy_snapshot(self, source: Path, name: str, expected: FileDigest, private: Path) -> None:
        """Let this attempt have the snapshot of an earlier one, or of this one on another host."""
        own = self.output / SNAPSHOTS / name
        if own.is_file() and describe_file(own) == expected:
            return
        file = self._fetch(source, name, expected, private)
        own.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, own)


def step_name(step: int) -> str:
    """The name of the folder of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def newest_step(files: Iterable[str]) -> int:
    """The step of the newest checkpoint among the files of one attempt or more; 0 if none is."""
    found = re.compile(rf"(?:.*/)?{CHECKPOINTS}/step-(\d+)/{MANIFEST}")
    return max((int(match[1]) for file in files if (match := found.fullmatch(file))), default=0)


def describe_file(file: Path) -> FileDigest:
    """Size and sha256 of a file."""
    return FileDigest(size=file.stat().st_size, sha256=file_sha256(file))


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Make sure that the contents of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compare(name: str, found: FileDigest, expected: FileDigest) -> None:
    if found != expected:
        raise DamagedCheckpoint(f"{name} is damaged (its size or sha256 is not the recorded one)")
