"""`gpt1 data get books`: download public-domain novels to train on."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import typer

from gpt1.corpus.public_books import SERVER, PublicBook, fetch_books, list_books
from gpt1.errors import UserError
from gpt1.format import counted
from gpt1.terminal import show
from pipeline.cli.output import named


def get_books(folder: Path, mirror: str | None, limit: int | None) -> None:
    """Download the books (or the first `limit`) that `folder` lacks, from `mirror` or GitHub.

    Exit status 1, after a list, if some are not there or have wrong bytes.
    """
    from pipeline.cli.progress import Display

    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: expected 1 or more")
    books = list_books()[:limit]
    total, done = sum(book.size for book in books), 0
    display = Display(stream=sys.stderr)

    def progress(book: PublicBook) -> None:
        nonlocal done
        done += book.size
        display.progress("books", round(done / 1e6, 1), round(total / 1e6, 1), "MB")

    display.start("books", f"{counted(len(books), 'book')} to {folder}")
    try:
        with named(str(folder), "free some space or choose another folder, and run again"):
            missing = fetch_books(
                books, folder, mirror or SERVER, progress, partial(display.line, "books")
            )
    finally:
        display.close()
    for name, problem in sorted(missing.items()):
        show(f"{folder / name}: {problem}", error=True)
    lack = f"; {len(missing)} missing, listed above" if missing else ""
    show(f"books: {counted(len(books) - len(missing), 'book')} in {folder}{lack}")
    if missing:
        raise typer.Exit(1)
