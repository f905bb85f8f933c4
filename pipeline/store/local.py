"""Objects in a folder of this machine, or of a file system that hosts share."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpt1.errors import UserError
from gpt1.train.checkpoint import PRIVATE, CheckpointStorage, FolderStorage, file_sha256, sync
from pipeline.store.atomic import create_file, replace_file
from pipeline.store.objects import ListedObject

OTHER = "choose another folder with --store"


@dataclass(frozen=True)
class LocalObjects:
    """The files below `root`; their paths relative to it are the keys."""

    root: Path
    shared = True

    @staticmethod
    def at(path: Path) -> LocalObjects:
        """The objects of a folder, which may not exist yet. UserError for what cannot be one."""
        try:
            str(path).encode()
            there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
            if not there.is_dir():
                raise UserError(f"{path}: cannot be used as a store (Not a directory); {OTHER}")
            return LocalObjects(path.resolve())
        except UnicodeEncodeError:
            raise UserError(f"{path!r}: cannot be used as a store (not UTF-8); {OTHER}") from None
        except OSError as error:
            problem = f"cannot be used as a store ({error.strerror})"
            raise UserError(f"{path}: {problem}; {OTHER}") from None

    @property
    def url(self) -> str:
        return str(self.root)

    @property
    def storage(self) -> CheckpointStorage:
        return FolderStorage()

    def address(self, key: str) -> str:
        return (self.root / key).as_uri()

    def read(self, key: str) -> bytes | None:
        try:
            with open(f"{self.root}/{key}", "rb") as file:  # noqa: PTH123 (a plan reads many)
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            problem = f"cannot be read ({error.strerror}); check the disk, and who may read it"
            raise UserError(f"{self.root / key}: {problem}") from None

    def write(self, key: str, data: bytes) -> None:
        replace_file(self.root / key, data)

    def create(self, key: str, data: bytes) -> bool:
        return create_file(self.root / key, data)

    def entries(self, prefix: str) -> list[ListedObject]:
        found: list[ListedObject] = []
        waiting = [prefix]
        while waiting:
            folder = waiting.pop()
            try:
                entries = list(os.scandir(f"{self.root}/{folder}"))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                key = folder + entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{key}/")
                elif not entry.name.startswith(PRIVATE):
                    with suppress(FileNotFoundError):  # deleted since it was listed
                        status = entry.stat(follow_symlinks=False)
                        mark = f"{status.st_ino}-{status.st_mtime_ns}"
                        found.append(ListedObject(key, status.st_size, mark))
        return found

    def folders(self, prefix: str = "") -> list[str]:
        folder = self.root / prefix
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if path.is_dir())

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            (self.root / key).unlink(missing_ok=True)

    def remove_folder(self, prefix: str) -> None:
        shutil.rmtree(self.root / prefix, ignore_errors=True)

    def unfinished(self, age: float) -> list[ListedObject]:
        found = []
        for path in self.root.rglob(f"{PRIVATE}*"):
            with suppress(OSError):
                status, is_ours = path.lstat(), re.fullmatch(PRIVATE + "[0-9a-f]{32}", path.name)
                if is_ours and path.is_file() and time.time() - status.st_mtime > age:
                    key = path.relative_to(self.root).as_posix()
                    found.append(ListedObject(key, status.st_size, ""))
        return found

    def upload(self, key: str, file: Path, sha256: str | None = None) -> None:  # noqa: ARG002
        assert file == self.root / key, "a file is an object where it is"
        for path in (file, file.parent):
            sync(path)

    def obtain(self, key: str, sha256: str) -> str | None:  # noqa: ARG002
        return self.sha256(key)

    def sha256(self, key: str) -> str | None:
        try:
            return file_sha256(self.root / key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
