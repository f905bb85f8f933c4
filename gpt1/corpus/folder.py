"""Books in a folder of .txt files."""

from __future__ import annotations

import os
from pathlib import Path

from gpt1.errors import UserError


def text_files(folder: Path) -> dict[str, Path]:
    """Relative name to path of every .txt file in `folder`, at any depth, ordered by name.

    Hidden files and folders are left out, links to folders are not followed. UserError when the folder is missing or holds none.
    """
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; expected a folder with .txt files, one a book (`source` of the ingest stage).")
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; expected a folder with .txt files, one a book (`source` of the ingest stage).")
    found: dict[str, Path] = {}
    for where, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(".txt") and not name.startswith("."):
                path = Path(where) / name
                found[path.relative_to(folder).as_posix()] = path
    if not found:
        raise UserError(
            f"{folder}: the corpus is empty: no .txt file at any depth; expected one a book (`source` of the ingest stage)."
        )
    return dict(sorted(found.items()))


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be listed ({error.strerror}); expected a readable folder.") from error
