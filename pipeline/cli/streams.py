"""Standard streams that are closed, full, or no longer read."""

from __future__ import annotations

import errno
import os
import select
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast


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
