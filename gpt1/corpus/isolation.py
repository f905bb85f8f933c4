"""Reading files in a child process, so that no file can end, fill or hang its reader.

The child sends what it reads through a socket, and None at the end of each file. Where it dies (a
library's fault in C++), needs more memory than a reader may have, or gives no sign of life for ten
minutes, the file it was at becomes one skipped file, and a new child reads the rest.

The child is a program of its own and no fork: a fork of a process that talks to Ray can leave both
without an answer. It waits for the next files of the same process, as it takes a second to start.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from gpt1.corpus.document import (
    Place,
    Read,
    ReadingConfig,
    SkippedFile,
    SourceFile,
    UnreadableFileError,
)
from gpt1.corpus.readers import read_source
from gpt1.corpus.readers.archives import OnRead

F = TypeVar("F", bound="Named")
R = TypeVar("R")
Reader = Callable[[F, ReadingConfig, OnRead], Iterator[R]]
PATIENCE = 600.0  # seconds without a sign of life
_MEMORY = 1 << 30  # bytes that a child may use beyond those at its start; at least 16 a text's byte
_OUT_OF_MEMORY = 3  # exit status of a child
_EVERY = 1.0  # seconds between two signs of life


class Named(Protocol):
    """A file to read."""

    @property
    def name(self) -> str:
        """For messages."""


class _Child:
    """A process that reads files. Raises RuntimeError where it does not start."""

    waiting: ClassVar[list[_Child]] = []
    """Those that have read all they were given."""

    def __init__(self) -> None:
        self.socket, theirs = multiprocessing.Pipe()
        code = f"from gpt1.corpus.isolation import serve; serve({theirs.fileno()})"
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
        )  # fmt: skip
        theirs.close()
        try:
            self.socket.recv()
        except (EOFError, OSError):
            status = self._process.wait()
            raise RuntimeError(f"the process that reads files ended with {status}") from None

    @classmethod
    def take(cls) -> _Child:
        """One that waits, or a new one."""
        while cls.waiting:
            child = cls.waiting.pop()
            if child._process.poll() is None:
                return child
        return cls()

    def end(self) -> int:
        """End it, whatever it does; its status."""
        self._process.kill()
        self.socket.close()
        return self._process.wait()

    def status(self) -> int:
        """With which it ended by itself, after its last message."""
        return self._process.wait()


def read_isolated(
    files: Sequence[SourceFile], config: ReadingConfig,
    on_read: OnRead | None = None, patience: float = PATIENCE,
) -> Read:
    """What `read_source` gives of each file, as `isolate` has it."""
    return isolate(read_source, files, config, on_read, patience)


def isolate(
    read: Reader[F, R], files: Sequence[F], config: ReadingConfig,
    on_read: OnRead | None = None, patience: float = PATIENCE,
) -> Iterator[R | SkippedFile]:
    """What `read`, a function of a module, yields of each file, in their order; a SkippedFile for
    one that ends its reader. No tuple, exception or None may be yielded.

    Raises what `read` raises. `on_read` hears now and then how much of a file was read.
    """
    rest = list(files)
    while rest:
        child, done, fault, waits = _Child.take(), 0, "", False
        try:
            child.socket.send((read, rest, config))
            while rest[done:]:
                if not child.socket.poll(patience):
                    fault = f"its reader gave no sign of life for {patience:.0f} seconds"
                    break
                try:
                    message = child.socket.recv()
                except (EOFError, OSError):  # it ended, between two messages or within one
                    fault = _why_it_ended(child.status())
                    break
                if isinstance(message, Exception):
                    raise message
                if message is None:
                    done += 1
                elif not isinstance(message, tuple):
                    yield message
                elif on_read:
                    on_read(*message)
            waits = not fault
        finally:
            if waits:
                _Child.waiting.append(child)
            else:
                child.end()
        rest = rest[done:]
        if rest:
            yield UnreadableFileError("reader_died", fault).at(Place(rest.pop(0).name))


def _why_it_ended(status: int) -> str:
    if status == _OUT_OF_MEMORY:
        return "its reader needs more memory than it may use"
    return f"its reader died of {signal.Signals(-status).name if status < 0 else f'exit {status}'}"


def serve(descriptor: int) -> None:
    """The child: read what comes through the socket until its other end is closed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a dying library prints is not the user's
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    socket: Connection[Any, Any] = Connection(descriptor)
    with suppress(EOFError, ConnectionError):
        socket.send("ready")
        while True:
            _read(socket, *socket.recv())


def _end_with(parent: int) -> None:
    """End this process when its parent has ended, also while a file hangs it."""
    while os.getppid() == parent:
        time.sleep(_EVERY)
    os._exit(1)


def _read(
    socket: Connection[Any, Any], read: Reader[F, R], files: Sequence[F], config: ReadingConfig
) -> None:
    """Send what `read` yields of each file and None at its end, or what exception ends it all."""
    _limit_memory(max(_MEMORY, 16 * config.max_document))
    last = time.monotonic()

    def tell(count: int, size: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            socket.send((count, size))

    try:
        for file in files:
            for found in read(file, config, tell):
                socket.send(found)
            socket.send(None)
    except ConnectionError:
        raise
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    except Exception as error:
        socket.send(error)


def _limit_memory(most: int) -> None:
    """Let this process use so many bytes more than now; where there is no such limit, nothing."""
    with suppress(OSError, ValueError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        now = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (now + most, resource.RLIM_INFINITY))


