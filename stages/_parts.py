"""What stages do part by part of the corpus: one part for each file of books."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from stages.contract import Artifact, Context, Part

if TYPE_CHECKING:
    from gpt1.corpus.split import SplitRow


def parts_of_books(
    books: Artifact, identity: Callable[[str], Mapping[str, Any]], **arguments: Any
) -> list[Part]:
    """A part for each file of books of an artifact.

    Its function gets `name` (`part-0007`), `books` (the file's sha256), what `identity` says of the
    name, `path` (the file) and `arguments`. All but the last two decide whether it is made again.
    """
    parts = []
    for file in books.under("books/"):
        name = PurePosixPath(file.name).stem
        about = {"name": name, "books": file.sha256, **identity(name)}
        parts.append(Part(name, about, {**about, "path": file, **arguments}))
    return parts


def split_by_part(context: Context) -> Mapping[str, list[SplitRow]]:
    """The rows of the split by part, ordered by book.

    A part whose identity has its own rows alone is not made again for a book added to another.
    """
    from gpt1.corpus.split import read_split, rows_by_part

    return rows_by_part(read_split(context.fetch(context.input("split").file("split.parquet"))))
