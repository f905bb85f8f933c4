"""Content digests of files from outside the store, remembered by size and time of change so that
a second look is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from gpt1.errors import UserError
from pipeline.store.atomic import file_sha256, read_json
from pipeline.store.atomic import replace as replace_file
from stages.contract import ExternalFile


class Digests:
    """sha256 of outside files, with a memory in the store."""

    def __init__(self, cache: Path) -> None:
        self._path = cache
        found = read_json(cache)
        self._known: dict[str, list[object]] = found if isinstance(found, dict) else {}
        self._changed = False

    def known(self, files: Sequence[ExternalFile]) -> list[ExternalFile]:
        """The files, each with its digest: the one it came with, or the sha256.

        UserError for a file that cannot be read.
        """
        with ThreadPoolExecutor(4) as pool:
            digests = pool.map(self._one, files)
            return [
                replace(file, digest=digest) for file, digest in zip(files, digests, strict=True)
            ]

    def save(self) -> None:
        """Keep what was learned; losing it costs time only."""
        if self._changed:
            replace_file(self._path, self._known)

    def _one(self, file: ExternalFile) -> str:
        if file.digest is not None:
            return file.digest
        try:
            status = file.path.stat()
            mark: list[object] = [status.st_size, status.st_mtime_ns, status.st_ino]
            key = str(file.path.absolute())
            known = self._known.get(key)
            if known is not None and known[:3] == mark:
                return str(known[3])
            sha256 = file_sha256(file.path)
        except OSError as error:
            raise UserError(f"{file.path}: cannot be read ({error.strerror})") from None
        self._known[key] = [*mark, sha256]
        self._changed = True
        return sha256
