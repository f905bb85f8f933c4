"""Books in a folder of this machine, at any depth."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from gpt1.corpus.readers.forms import form_of, hidden
from gpt1.corpus.readers.listed import Listed, Listing, printable, refused_listed
from gpt1.errors import UserError


def list_path(path: Path) -> Listing:
    """The files of a folder, ordered by name, or one file. UserError when there is nothing there.

    Hidden files are left out. Links to folders are followed after the real ones; one to a folder
    that is read already is refused.
    """
    if path.is_dir():
        found = _Walk(path)
        return Listing(
            sorted(found.files.values(), key=lambda file: file.name), sorted(found.left_out)
        )
    if not path.exists():
        raise UserError(
            f"source: no such file or folder: {path}; expected a folder or file of books. Set the"
            " path, e.g. --set ingest.source=PATH."
        )
    return Listing([_file(path, path.name)], [])


class _Walk:
    def __init__(self, top: Path) -> None:
        self.files: dict[str, Listed] = {}
        self.left_out: list[str] = []
        self._seen: set[tuple[int, int]] = set()
        links = self._tree(top, "")
        while links:
            path, name = links.pop(0)
            if self._mark(path) in self._seen:
                self._add(refused_listed("loop", name))
            else:
                links += self._tree(path, f"{name}/")

    def _tree(self, top: Path, prefix: str) -> list[tuple[Path, str]]:
        """Take in a tree of real folders; the links to folders in it, ordered by name."""
        links = []
        for where, folders, names in os.walk(top, onerror=self._unlistable(top, prefix)):
            self._seen.add(self._mark(Path(where)))
            folders[:] = sorted(name for name in folders if not hidden(name))
            inside = prefix + (
                "" if Path(where) == top else f"{Path(where).relative_to(top).as_posix()}/"
            )
            links += [
                (Path(where) / name, inside + name)
                for name in folders
                if (Path(where) / name).is_symlink()
            ]
            for name in names:
                self._take(Path(where) / name, inside + name)
        return sorted(links, key=lambda link: link[1])

    def _take(self, path: Path, name: str) -> None:
        if hidden(path.name):
            return
        if form_of(name) is None:
            self.left_out.append(printable(name))
        elif printable(name) != name:
            self._add(refused_listed("bad_name", name))
        else:
            self._add(_file(path, name))

    def _unlistable(self, top: Path, prefix: str) -> Callable[[OSError], None]:
        def refuse(error: OSError) -> None:
            inside = Path(error.filename).relative_to(top).as_posix()
            self._add(refused_listed("unreadable_folder", prefix + inside))

        return refuse

    def _add(self, file: Listed) -> None:
        self.files[file.name] = file

    @staticmethod
    def _mark(path: Path) -> tuple[int, int]:
        status = path.stat()
        return status.st_dev, status.st_ino


def _file(path: Path, name: str) -> Listed:
    """The file, if it is one that can be opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return refused_listed("not_a_file", name)
        with path.open("rb"):
            return Listed(name, str(path))
    except OSError:
        return refused_listed("unreadable", name)
