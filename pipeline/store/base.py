"""The artifact store: private attempts, and one record that publishes.

    STORE/<stage>/<fingerprint>/<attempt>/...   the files of one try
    STORE/<stage>/<fingerprint>/record.json     created once: the attempt that won and its files
    STORE/<stage>.parts/<key>/...               the same for the parts of a part-wise stage

Work is done in an attempt nobody else knows of. Publishing is one create-if-absent of the record,
so a late writer loses the race and harms nothing, and a reader sees all of an artifact or none of
it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError
from gpt1.paths import FILE, is_url, leads_out, path_of_uri
from pipeline.store.atomic import create_once, read_json, replace, sync_folder
from pipeline.store.words import FileWord, Word
from stages.contract import PROVENANCE, Artifact, OutputFile, Travel

if TYPE_CHECKING:
    from pipeline.outbox_mirror import OutboxMirror

RECORD = "record.json"
FAILURE = "failure.json"
LEASE = "lease.json"
WITHDRAWN = "withdrawn-"
PARTS = ".parts"
"""How the kinds of parts end."""
RECORD_VERSION = 1


def content_digest(files: Mapping[str, OutputFile]) -> str:
    """One digest over the names and hashes of all files that are not volatile."""
    hashed = hashlib.sha256()
    for name in sorted(files):
        if not files[name].volatile:
            hashed.update(f"{name}\0{files[name].sha256}\n".encode())
    return hashed.hexdigest()


@dataclass(frozen=True)
class Failure:
    """Why an attempt has no artifact. `stopped`: it was asked to end."""

    error: str
    stopped: bool


@dataclass(frozen=True)
class Store:
    """A store in a folder of this machine or of a shared file system; RemoteStore keeps one behind
    an address.

    Whatever a path is asked for, it is one of this host below `root`.
    """

    root: Path

    @staticmethod
    def at(where: Path | str) -> Store:
        """The store at a path, file://path or s3://bucket/folder; a folder is made if need be.

        UserError when it cannot be used.
        """
        text = str(where)
        if text.startswith("s3:/"):
            from pipeline.store.remote_store import RemoteStore

            return RemoteStore.reached(text)
        if is_url(text) and not text.startswith(FILE):
            raise UserError(
                f"{text}: cannot be used as a store; expected a folder, file://FOLDER or"
                " s3://BUCKET/FOLDER"
            )
        path = path_of_uri(text) if text.startswith(FILE) else Path(where)
        try:
            str(path).encode()
            path.mkdir(parents=True, exist_ok=True)
        except UnicodeEncodeError:
            raise UserError(
                f"{path!r}: cannot be used as a store (not UTF-8); choose another folder with"
                " --store"
            ) from None
        except OSError as error:
            raise UserError(
                f"{path}: cannot be used as a store ({error.strerror}); choose another folder with"
                " --store"
            ) from None
        if not os.access(path, os.W_OK):
            raise UserError(
                f"{path}: cannot be used as a store (not writable); choose another folder with"
                " --store"
            )
        return Store(path.resolve())

    @staticmethod
    def existing(where: Path | str) -> Store:
        """The same, and nothing is made. UserError when there is none."""
        text = str(where)
        path = path_of_uri(text) if text.startswith(FILE) else Path(where)
        if not text.startswith("s3:/") and not path.is_dir():
            raise UserError(f"{where}: no such store; choose one with --store")
        return Store.at(where)

    @property
    def where(self) -> str:
        """The store's address, as it is given with --store."""
        return str(self.root)

    @property
    def travel(self) -> Travel | None:
        """How paths and files of the store get to other hosts; None where all of them see the
        same folder.
        """
        return None

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Where the attempts at an artifact lie."""
        return self.root / stage / fingerprint

    def new_attempt(self, stage: str, fingerprint: str) -> Path:
        """A private folder for one try; names sort by the time of their making."""
        seconds, rest = divmod(time.time_ns(), 10**9)
        when = time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))
        name = f"{when}.{rest // 1000:06d}-{secrets.token_hex(3)}"
        attempt = self.folder(stage, fingerprint) / name
        attempt.mkdir(parents=True)
        return attempt

    def attempts(self, stage: str, fingerprint: str) -> list[Path]:
        """All attempts, oldest first."""
        folder = self.folder(stage, fingerprint)
        return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def address(self, path: Path) -> str:
        """The URL of a file or folder of the store."""
        return path.as_uri()

    def file_address(self, file: OutputFile) -> str:
        """The URL of an artifact's file, which need not be fetched for it."""
        return self.address(file.path)

    def owns(self, artifact: Artifact, file: OutputFile) -> bool:
        """Whether the artifact's own attempt made the file; False for one of a part that it
        includes.
        """
        return file.path.is_relative_to(self.folder(artifact.stage, artifact.fingerprint))

    def local(self, address: str) -> Path:
        """The path on this host of what an address names, or a path (relative: of the store),
        fetched if need be. LookupError when it is gone, UserError when the store cannot be
        asked.
        """
        path = path_of_uri(address) if address.startswith(FILE) else self.root / address
        if not path.exists():
            raise LookupError(f"{address} is gone")
        return path

    def publish(
        self, stage: str, fingerprint: str, files: Mapping[str, OutputFile],
        about: Mapping[str, Any],
    ) -> bool:
        """Make the files the artifact.

        False when another writer was first; then nothing has changed.
        """
        listed = {
            name: {
                "path": str(file.path.relative_to(self.root)), "size": file.size,
                "sha256": file.sha256, "volatile": file.volatile,
            }
            for name, file in files.items()
        }  # fmt: skip
        record = _record(stage, fingerprint, files, listed, about)
        for folder in {file.path.parent for file in files.values()}:
            sync_folder(folder)
        return create_once(self.folder(stage, fingerprint) / RECORD, record)

    def record(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """The record of a published artifact, or None."""
        return valid(read_json(self.folder(stage, fingerprint) / RECORD))

    def published(self, stage: str, fingerprint: str) -> bool:
        """Whether there is a record, readable or not."""
        return (self.folder(stage, fingerprint) / RECORD).exists()

    def unreadable(self, stage: str, fingerprint: str) -> bool:
        """Whether there is a record that cannot be read.

        It keeps others from publishing, until it is withdrawn.
        """
        return self.published(stage, fingerprint) and self.record(stage, fingerprint) is None

    def artifact(self, stage: str, fingerprint: str) -> Artifact | None:
        """The published artifact, or None."""
        record = self.record(stage, fingerprint)
        return None if record is None else self.to_artifact(record)

    def to_artifact(self, record: Mapping[str, Any]) -> Artifact:
        """What stages see of a record."""
        files = {
            name: OutputFile(
                name, self.root / entry["path"], entry["size"], entry["sha256"], entry["volatile"]
            )
            for name, entry in record["files"].items()
        }
        return artifact_of(record, files)

    def damage(self, artifact: Artifact) -> str | None:
        """The first file that is missing or has another size than recorded, as a reason; None
        when all is well.
        """
        for file in artifact.files.values():
            try:
                size = file.path.stat().st_size
            except OSError:
                return f"file {file.name} is missing from the store"
            if size != file.size:
                return (
                    f"file {file.name} has {size} bytes in the store, but {file.size} in its record"
                )
        return None

    def withdraw(self, stage: str, fingerprint: str) -> None:
        """Take back a record (a forced rerun, or a damaged artifact).

        Its files stay; the record is kept under another name.
        """
        record = self.folder(stage, fingerprint) / RECORD
        if record.exists():
            record.rename(record.with_name(f"{WITHDRAWN}{time.time_ns()}.json"))

    def withdrawn(self, stage: str, fingerprint: str) -> int:
        """How many records of it were taken back."""
        return len(list(self.folder(stage, fingerprint).glob(f"{WITHDRAWN}*.json")))

    def records(self, stage: str) -> Iterator[dict[str, Any]]:
        """All records of one kind of stage."""
        folder = self.root / stage
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            record = self.record(stage, path.name)
            if record is not None:
                yield record

    def history(self) -> Iterator[dict[str, Any]]:
        """All records of all stages (of no parts), those too that were taken back."""
        for path in sorted(
            [*self.root.glob(f"*/*/{RECORD}"), *self.root.glob(f"*/*/{WITHDRAWN}*.json")]
        ):
            if (
                not path.parent.parent.name.endswith(PARTS)
                and (record := valid(read_json(path))) is not None
            ):
                yield record

    def seen(self, kinds: Iterable[str]) -> Store:
        """The same for reading much at once: a remote store answers from one listing of each of
        these kinds, made now.
        """
        del kinds
        return self

    def read_ahead(self, kind: str, fingerprints: Sequence[str]) -> None:
        """Read these records together, where that is quicker than one by one."""

    def lease(self, stage: str, fingerprint: str) -> Word:
        """Where one who makes an artifact says so."""
        return FileWord(self.folder(stage, fingerprint) / LEASE)

    def leave(self, attempt: Path, name: str, data: Any) -> None:
        """Leave word (JSON) in an attempt, or at the top of the store, for who comes after."""
        replace(attempt / name, data)

    def left(self, attempt: Path, name: str) -> Any | None:
        """The word of that name, or None."""
        return read_json(attempt / name)

    def fail(self, attempt: Path, error: str, user: bool, stopped: bool = False) -> None:
        """Leave word in an attempt of why it failed; `stopped`: because it was asked to end."""
        word = {"error": error, "user_error": user, "stopped": stopped, "when": time.time()}
        self.leave(attempt, FAILURE, word)

    def failure(self, attempt: Path) -> Failure | None:
        """Why an attempt failed; None when it did not, or was killed before it could say."""
        found = self.left(attempt, FAILURE)
        if not isinstance(found, dict) or "error" not in found:
            return None
        return Failure(str(found["error"]), bool(found.get("stopped")))

    def outbox_mirror(self, folder: Path) -> OutboxMirror | None:
        """What keeps a copy of the outbox on this host in the store; None where the outbox lies
        in the store itself.
        """
        del folder
        return None

    def show(self, file: OutputFile, name: str) -> None:
        """Let `name`, at the top of the store, show a file of an artifact."""
        private = self.root / f".{name}-{secrets.token_hex(4)}"
        private.symlink_to(os.path.relpath(file.path, self.root))
        private.replace(self.root / name)

    def shown(self, name: str) -> str | None:
        """Where `name` at the top of the store is to be seen; None when nothing was shown."""
        return str(self.root / name) if (self.root / name).exists() else None


def _record(
    stage: str, fingerprint: str, files: Mapping[str, OutputFile], listed: Mapping[str, Any],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "record_version": RECORD_VERSION, "stage": stage, "fingerprint": fingerprint,
        "digest": content_digest(files), "files": listed, **about,
    }  # fmt: skip


def valid(record: Any) -> dict[str, Any] | None:
    """A record as it was read, if it is a complete one of this version; None counts as absent.

    UserError where it names a file outside the folders of its own stage: others may write to a
    shared store.
    """
    if (
        not _has(record, "record_version", "stage", "fingerprint", "digest", "files")
        or record["record_version"] != RECORD_VERSION
    ):
        return None
    stage, files = record["stage"], record["files"]
    if not _has(files) or not all(
        _has(entry, "path", "size", "sha256", "volatile") for entry in files.values()
    ):
        return None
    paths = [entry["path"] for entry in files.values()]
    wrong = [name for name in (stage, *files, *paths) if leads_out(name)]
    wrong = wrong or [
        path
        for path in paths
        if path.split("/")[0] not in (stage, f"{stage.removesuffix(PARTS)}{PARTS}")
    ]
    if wrong:
        where = f"{stage}/{record['fingerprint']}/{RECORD}"
        raise UserError(
            f"{where}: found the file {wrong[0]!r}, expected one below {stage}/; delete the record"
            " if you did not write it"
        )
    return record


def _has(data: Any, *keys: str) -> bool:
    return isinstance(data, dict) and data.keys() >= set(keys)


def artifact_of(record: Mapping[str, Any], files: Mapping[str, OutputFile]) -> Artifact:
    """What stages see of a record."""
    return Artifact(
        record["stage"], record.get("cell", ""), record["fingerprint"], record["digest"],
        record.get("settings", {}), record.get("summary", {}), files,
        {name: record.get(name) for name in PROVENANCE},
    )  # fmt: skip
