"""What commands print and write: tables, JSON, folders; and the streams they print to."""

from __future__ import annotations

import errno
import os
import secrets
import select
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from gpt1.errors import UserError
from gpt1.terminal import show, to_json


def print_json(value: Any) -> None:
    """Print a value for programs, and for people to read, too."""
    show(to_json(value, indent=1))


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """A line a row, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def format_time(seconds: float) -> str:
    """The local time, of seconds since 1970, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


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


# Standard streams that are closed, full, or no longer read


class LossyStream:
    """A text stream that drops what cannot be written, as in `gpt1 run | head -2`: a run's work is
    worth more than its progress.

    An error other than a reader that is gone is reported by `report`, once.
    """

    def __init__(self, stream: TextIO, report: Callable[[str], object]) -> None:
        self._stream, self._report = stream, report

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        discard(self._stream)
        if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal was closed
            self._report(f"gpt1: {self._stream.name}: {error.strerror}; output is not shown\n")


def discard(stream: TextIO) -> None:
    """Send what is written to a stream, and what it has buffered, nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def is_unread(stream: TextIO) -> bool:
    """Whether its reader is gone: of a pipe, or a terminal that was closed."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)  # which asks for errors alone
    return bool(poll.poll(0))


def make_lossy() -> None:
    """Make this process's output streams lossy."""
    err = LossyStream(sys.stderr, lambda _: None)
    sys.stdout, sys.stderr = cast(TextIO, LossyStream(sys.stdout, err.write)), cast(TextIO, err)


def open_closed() -> None:
    """Open the null device in place of standard streams that are closed, as by `>&-`: the next file
    that is opened would have their number, and get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
