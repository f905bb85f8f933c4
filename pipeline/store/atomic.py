"""Files written so that they are whole or absent, and hashed while they are written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20


class HashingWriter(io.BufferedIOBase):
    """A binary file that takes the sha256 and the size of what goes through it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = path.open("wb")
        self._hash = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        written = len(memoryview(data).cast("B"))
        self._file.write(data)
        self.size += written
        return written

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        super().close()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the entries of `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_once(path: Path, data: Any) -> bool:
    """Create a JSON file, whole, if there is none; False (and nothing changed) if there is one.

    Atomic also between machines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    private = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        _write_json(private, data)
        os.link(private, path)
    except FileExistsError:
        return False
    finally:
        private.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def replace(path: Path, data: Any) -> None:
    """Write a JSON file, replacing one that is there, whole at every moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    private = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    _write_json(private, data)
    private.replace(path)


def read_json(path: Path) -> Any | None:
    """The data of a JSON file; None when it is missing or not whole."""
    try:
        return parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def parse_json(data: bytes) -> Any | None:
    """What bytes say in JSON; None when they are damaged."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _write_json(path: Path, data: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(data, file, ensure_ascii=False, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
