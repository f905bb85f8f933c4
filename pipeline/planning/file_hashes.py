"""Content digests of files from outside the store, remembered by size and time of change so that
a second look is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.terminal import show
from gpt1.train.checkpoint import file_sha256
from pipeline.store.atomic import read_signed, replace_file, sign, to_json
from pipeline.store.base import UNREADABLE
from stages.contract import ExternalFile


class FileHashes:
    """sha256 of outside files, with a memory in a file of the store; what is wrong there costs a
    second look.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._path = memory = store / "cache" / "file-hashes.json"
        self._known: dict[str, Any] = {}
        self._changed = False
        with suppress(OSError):
            data = memory.read_bytes()
            found = read_signed(data)
            if found is None:
                aside = memory.with_name(f"{UNREADABLE}-{memory.name}")
                memory.replace(aside)
                show(f"gpt1: {memory} is damaged; it is set aside as {aside.name}", error=True)
            else:
                self._known = found["files"]

    def resolve(self, files: Sequence[ExternalFile]) -> list[ExternalFile]:
        """The files, each with its digest: the one it came with, or the sha256.

        UserError for a file that cannot be read.
        """
        if not files:
            return []
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda file: replace(file, digest=self._one(file)), files))

    def save(self) -> None:
        """Keep what was learned; losing it costs time only."""
        if self._changed:
            with suppress(OSError):
                self._store.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace_file(self._path, sign(to_json({"files": self._known})))

    def _one(self, file: ExternalFile) -> str:
        if file.digest is not None:
            return file.digest
        try:
            status = file.path.stat()
            mark = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            key = str(file.path.absolute())
            match self._known.get(key):
                case [*before, str(sha256)] if before == mark:
                    return sha256
            sha256 = file_sha256(file.path)
        except OSError as error:
            raise UserError(f"{file.path}: cannot be read ({error.strerror})") from None
        self._known[key] = [*mark, sha256]
        self._changed = True
        return sha256
