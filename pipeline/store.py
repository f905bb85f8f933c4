"""The artifact store: private attempts, and one record that publishes.

    STORE/<stage>/<fingerprint>/<attempt>/...   the files of one try
    STORE/<stage>/<fingerprint>/record.json     created once; names the attempt that won, its files and where they came from
    STORE/<stage>.parts/<key>/...               the same for the parts of a part-wise stage

Work is done in an attempt nobody else knows of. Publishing is one create-if-absent of the record, so a late writer loses the race
and harms nothing, and a reader sees all of an artifact or none of it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from pipeline.files import create_once, read_json, replace, sync_folder
from stages.contract import MADE_BY, Artifact, OutputFile

RECORD = "record.json"
FAILURE = "failure.json"
RECORD_VERSION = 1


def content_digest(files: Mapping[str, OutputFile]) -> str:
    """One digest over the names and hashes of all files that are not volatile."""
    hashed = hashlib.sha256()
    for name in sorted(files):
        if not files[name].volatile:
            hashed.update(f"{name}\0{files[name].sha256}\n".encode())
    return hashed.hexdigest()


@dataclass(frozen=True)
class Store:
    """A store in a folder of this machine or of a shared file system."""

    root: Path

    @staticmethod
    def at(path: Path) -> Store:
        """The store in `path`, made if need be. UserError when it cannot be written."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be used as a store ({error.strerror}); choose another folder with --store") from None
        if not os.access(path, os.W_OK):
            raise UserError(f"{path}: cannot be used as a store (not writable); choose another folder with --store")
        return Store(path.resolve())

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Where the attempts at an artifact lie."""
        return self.root / stage / fingerprint

    def new_attempt(self, stage: str, fingerprint: str) -> Path:
        """A private folder for one try; names sort by the time of their making."""
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        attempt = self.folder(stage, fingerprint) / name
        attempt.mkdir(parents=True)
        return attempt

    def attempts(self, stage: str, fingerprint: str) -> list[Path]:
        """All attempts, oldest first."""
        folder = self.folder(stage, fingerprint)
        return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []

    def publish(self, stage: str, fingerprint: str, files: Mapping[str, OutputFile], about: Mapping[str, Any]) -> bool:
        """Make the files the artifact. False when another writer was first; then nothing has changed."""
        listed = {
            name: {
                "path": str(file.path.relative_to(self.root)), "size": file.size, "sha256": file.sha256, "volatile": file.volatile,
            }
            for name, file in files.items()
        }  # fmt: skip
        record = {
            "record_version": RECORD_VERSION, "stage": stage, "fingerprint": fingerprint, "digest": content_digest(files),
            "files": listed, **about,
        }  # fmt: skip
        for folder in {file.path.parent for file in files.values()}:
            sync_folder(folder)
        return create_once(self.folder(stage, fingerprint) / RECORD, record)

    def record(self, stage: str, fingerprint: str) -> dict[str, Any] | None:
        """The record of a published artifact, or None."""
        found = read_json(self.folder(stage, fingerprint) / RECORD)
        return found if isinstance(found, dict) and found.get("record_version") == RECORD_VERSION else None

    def artifact(self, stage: str, fingerprint: str) -> Artifact | None:
        """The published artifact, or None."""
        record = self.record(stage, fingerprint)
        return None if record is None else self.to_artifact(record)

    def to_artifact(self, record: Mapping[str, Any]) -> Artifact:
        """What stages see of a record."""
        files = {
            name: OutputFile(name, self.root / entry["path"], entry["size"], entry["sha256"], entry["volatile"])
            for name, entry in record["files"].items()
        }
        return Artifact(
            record["stage"], record.get("cell", ""), record["fingerprint"], record["digest"], record.get("settings", {}),
            record.get("summary", {}), files, {name: record.get(name) for name in MADE_BY},
        )  # fmt: skip

    def damage(self, artifact: Artifact) -> str | None:
        """The first file that is missing or has another size than recorded, as a reason; None when all is well."""
        for file in artifact.files.values():
            try:
                size = file.path.stat().st_size
            except OSError:
                return f"file {file.name} is missing from the store"
            if size != file.size:
                return f"file {file.name} has {size} bytes in the store, its record says {file.size}"
        return None

    def withdraw(self, stage: str, fingerprint: str) -> None:
        """Take back a record (a forced rerun, or a damaged artifact). Its files stay; the record is kept under another name."""
        record = self.folder(stage, fingerprint) / RECORD
        if record.exists():
            record.rename(record.with_name(f"withdrawn-{time.time_ns()}.json"))

    def records(self, stage: str) -> Iterator[dict[str, Any]]:
        """All records of one kind of stage."""
        folder = self.root / stage
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            record = self.record(stage, path.name)
            if record is not None:
                yield record

    def fail(self, attempt: Path, error: str, user: bool) -> None:
        """Leave word in an attempt of why it failed."""
        replace(attempt / FAILURE, {"error": error, "user_error": user, "when": time.time()})

    def failure(self, attempt: Path) -> str | None:
        """Why an attempt failed; None when it did not, or was killed before it could say."""
        found = read_json(attempt / FAILURE)
        return str(found["error"]) if isinstance(found, dict) else None
