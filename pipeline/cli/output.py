"""What commands print and write: tables, JSON, folders."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.terminal import show, to_json


def print_json(value: Any) -> None:
    """Print a value for programs, and for people to read, too."""
    show(to_json(value, indent=1))


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """A line a row, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


@contextmanager
def named(name: str, advice: str, verb: str = "written") -> Iterator[None]:
    """What the disk refuses in the block is a UserError about `name`."""
    try:
        yield
    except OSError as error:
        problem = f"cannot be {verb} ({error.strerror or error})"
        raise UserError(f"{name}: {problem}; {advice}") from error


@contextmanager
def new_folder(out: Path, name: str) -> Iterator[Path]:
    """A private folder that takes the name `out` when the block ends well, and is removed when it
    does not.

    `name` is how messages name it. UserError when something is there already, and when it cannot
    be written (a full disk).
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{name}: exists and is not empty; choose a new folder")
    private = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    try:
        with named(name, "free up space, or choose another folder"):
            private.mkdir(parents=True)
            yield private
            private.replace(out)
    finally:
        shutil.rmtree(private, ignore_errors=True)
