"""Checkpoints kept in a vault, for ranks that share no disk: each rank puts its files, rank 0 the
record, last.

They lie in the vault as `Checkpoints` has them on a disk: ATTEMPT/checkpoints/step-NNNNNNNN/. Each
host that takes one up fetches it once, into ATTEMPT/resumed-DIGEST/, and checks every file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from gpt1 import fault
from gpt1.train.checkpoint_record import (
    FORMAT,
    HISTORY,
    RECORD,
    Checkpoint,
    Listing,
    list_file,
    read_checkpoint,
    refuse_outside,
)
from gpt1.train.ranks import Ranks
from gpt1.train.saving import LISTING, PATIENCE, Draft, Fits, Keep, Saving, Say, any_fits
from gpt1.train.vault import CheckpointStorage

FOLDER = "checkpoints"
_RECORDS = re.compile(rf"([^/]+)/{FOLDER}/step-(\d+)/{re.escape(RECORD)}")


class VaultCheckpoints(Saving):
    """What `Checkpoints` is, with the vault in place of the folders.

    `output` is this attempt's folder on this host; earlier attempts are those beside it.
    """

    def __init__(
        self, output: Path, storage: CheckpointStorage, keep: Keep, ranks: Ranks, info: Say
    ) -> None:
        super().__init__(keep, ranks, info)
        self.output = output
        self.storage = storage
        self._sent: dict[str, str] = {}
        """Snapshots that lie in the vault, with their sha256: after going back one of the same
        name may be another.
        """

    def newest(self, fits: Fits = any_fits) -> Checkpoint | None:
        """The newest whole checkpoint of all attempts that `fits`, the same on every rank.

        Its files' hashes have been checked.
        """
        chosen = self.ranks.from_first(self._newest(fits) if self.ranks.first else None)
        if chosen is None:
            return None
        found = self._fetch(*chosen)
        if isinstance(found, str):
            raise OSError(
                f"checkpoint {chosen}: rank 0 could read it, rank {self.ranks.rank} could not:"
                f" {found}"
            )
        return found

    def _newest(self, fits: Fits) -> tuple[str, int] | None:
        found = [_RECORDS.fullmatch(name) for name in self.storage.list(self.output.parent)]
        places = [(int(match[2]), match[1]) for match in found if match]
        for step, attempt in sorted(places, reverse=True):
            checkpoint = self._fetch(attempt, step)
            if isinstance(checkpoint, Checkpoint):
                if fits(checkpoint):
                    return attempt, step
                continue
            place = f"{attempt}/{FOLDER}/{_name(step)}"
            self.info(
                f"warning: skipped checkpoint {place}: {checkpoint}; using the one before it"
            )
        return None

    def _fetch(self, attempt: str, step: int) -> Checkpoint | str:
        """This host's copy of a checkpoint, or why it is not whole."""
        source = self.output.parent / attempt
        data = self.storage.read(source / FOLDER / _name(step), RECORD)
        if data is None:
            return f"its {RECORD} is missing"
        try:
            record = json.loads(data)
            if trouble := refuse_outside(record):
                return trouble
            files = {
                f"{FOLDER}/{_name(step)}/{name}": entry["sha256"]
                for name, entry in record["files"].items()
            }
            files |= {f"snapshots/{name}": digest for name, digest in record["snapshots"].items()}
        except (ValueError, KeyError, TypeError) as error:
            return f"its {RECORD} cannot be read ({error!r})"
        target = source / f"resumed-{hashlib.sha256(data).hexdigest()[:12]}"
        target.mkdir(parents=True, exist_ok=True)
        with (target / ".lock").open("a") as lock:  # the ranks of a host fetch it once
            fcntl.flock(lock, fcntl.LOCK_EX)
            for name, digest in files.items():
                trouble = self._receive(source, name, digest, target / name)
                if trouble:
                    return trouble
            (target / FOLDER / _name(step) / RECORD).write_bytes(data)
            return read_checkpoint(target / FOLDER / _name(step))

    def _receive(self, source: Path, name: str, digest: str, file: Path) -> str | None:
        if file.exists():
            return None
        private = file.with_name(f".fetch-{uuid.uuid4().hex}")
        found = self.storage.download(source, name, private)
        if found != digest:
            private.unlink(missing_ok=True)
            return f"{Path(name).name} is " + (
                "missing" if found is None else "damaged (its sha256 is not the recorded one)"
            )
        private.rename(file)
        return None

    def _open(self, step: int, nonce: str) -> Path:  # noqa: ARG002 (the lists carry it)
        folder = self.output / FOLDER / _name(step)
        if self.ranks.first:
            self.storage.delete(
                folder, [RECORD]
            )  # of a damaged one of the same step, that was passed over
        return folder

    def _write(self, draft: Draft) -> None:
        folder, listed = draft.folder, Listing()
        for write in draft.writes:
            file = list_file(folder, write())
            listed |= file
            for name in file:
                self.storage.upload(folder, name)
                (folder / name).unlink()
        if not self.ranks.first:
            self.storage.write(
                folder, f"{LISTING}{draft.nonce}-{self.ranks.rank}", json.dumps(listed).encode()
            )
            return
        listings = [f"{LISTING}{draft.nonce}-{rank}" for rank in range(1, self.ranks.world)]
        for name in listings:
            listed |= self._await_listing(folder, name)
        told = draft.history.encode()
        listed[HISTORY] = {"size": len(told), "sha256": hashlib.sha256(told).hexdigest()}
        self.storage.write(folder, HISTORY, told)
        for snapshot, digest in sorted(draft.record["snapshots"].items() - self._sent.items()):
            self.storage.upload(self.output, f"snapshots/{snapshot}")
            self._sent[snapshot] = digest
        record = {"format": FORMAT, **draft.record, "files": listed}
        fault.point("checkpoint.written")
        self.storage.write(folder, RECORD, json.dumps(record, indent=2, sort_keys=True).encode())
        fault.point("checkpoint.published")
        self.storage.delete(folder, listings)
        self._forget_old()

    def _await_listing(self, folder: Path, name: str) -> Listing:
        deadline = time.monotonic() + PATIENCE
        while (found := self.storage.read(folder, name)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{folder.name}: another rank did not upload its share of the checkpoint within"
                    f" {PATIENCE:g} s"
                )
            time.sleep(0.1)
        listing: Listing = json.loads(found)
        return listing

    def _forget_old(self) -> None:
        names = self._own()
        whole = [step for step in _steps(names) if f"{_name(step)}/{RECORD}" in names]
        for step in whole[self.keep.newest :]:
            if self.keep.every and step % self.keep.every == 0:
                continue
            self._forget(step, names)

    def _forget_after(self, step: int) -> None:
        names = self._own()
        for later in _steps(names):
            if later > step:
                self._forget(later, names)

    def _own(self) -> Sequence[str]:
        """What this attempt has put, of all its checkpoints."""
        return self.storage.list(self.output / FOLDER)

    def _forget(self, step: int, names: Sequence[str]) -> None:
        """Of this attempt's own; the record first, for half a checkpoint must not look whole."""
        of_step = [name for name in names if name.startswith(f"{_name(step)}/")]
        self.storage.delete(
            self.output / FOLDER, sorted(of_step, key=lambda name: not name.endswith(f"/{RECORD}"))
        )


def _steps(names: Sequence[str]) -> list[int]:
    """The steps of which there is something, newest first."""
    return sorted(
        {int(match[1]) for name in names if (match := re.match(r"step-(\d+)/", name))}, reverse=True
    )


def _name(step: int) -> str:
    return f"step-{step:08d}"
