"""Reading files in a child process, so that no file can end, fill or hang its reader.

The child sends what it reads through a pipe, and which file comes next before it opens it. Where it
dies (a library's fault in C++), needs more memory than a reader may have, or gives no sign of life
for ten minutes, the file it was at becomes one skipped file, and a new child reads the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpt1.corpus.document import (
    Document,
    Place,
    Read,
    ReadingConfig,
    SkippedFile,
    SourceFile,
    UnreadableFileError,
)
from gpt1.corpus.io import OnRead
from gpt1.corpus.readers import read_source

PATIENCE = 600.0  # seconds without a sign of life
_MEMORY = 1 << 30  # bytes that a child may use beyond those at its start; at least 16 a text's byte
_OUT_OF_MEMORY = 3  # exit status of a child
_EVERY = 1.0  # seconds between two signs of life


def read_isolated(
    files: Sequence[SourceFile], config: ReadingConfig,
    on_read: OnRead | None = None, patience: float = PATIENCE,
) -> Read:
    """What `read_source` gives of each file, in their order.

    Raises what `read_source` raises. `on_read` hears now and then how much of a file was read.
    """
    rest = list(files)
    while rest:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        context = multiprocessing.get_context("fork")  # seconds faster than to import all anew
        child = context.Process(
            target=_read_in_child, args=(receiver, sender, rest, config), daemon=True
        )
        child.start()
        sender.close()
        done = 0
        fault = ""
        try:
            while rest[done:]:
                if not receiver.poll(patience):
                    fault = f"its reader gave no sign of life for {patience:.0f} seconds"
                    break
                try:
                    message = receiver.recv()
                except (EOFError, OSError):  # it ended, between two messages or within one
                    child.join()
                    fault = _why_it_ended(child.exitcode or 0)
                    break
                if isinstance(message, Document | SkippedFile):
                    yield message
                elif isinstance(message, Exception):
                    raise message
                elif message is None:
                    done += 1
                elif on_read:
                    on_read(*message)
        finally:
            child.kill()
            child.join()
            receiver.close()
        rest = rest[done:]
        if rest:
            yield UnreadableFileError("reader_died", fault).at(Place(rest.pop(0).name))


def _why_it_ended(status: int) -> str:
    if status == _OUT_OF_MEMORY:
        return "its reader needs more memory than it may use"
    return f"its reader died of {signal.Signals(-status).name if status < 0 else f'exit {status}'}"


def _read_in_child(
    receiver: Connection[Any, Any], sender: Connection[Any, Any], files: Sequence[SourceFile],
    config: ReadingConfig,
) -> None:
    """Send the documents of each file, and None at its end; an exception ends the child."""
    receiver.close()  # else a parent's death would not be noticed
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a dying library prints is not the user's
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _limit_memory(max(_MEMORY, 16 * config.max_document))
    last = time.monotonic()

    def tell(count: int, size: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            last = time.monotonic()
            sender.send((count, size))

    try:
        for file in files:
            for found in read_source(file, config, tell):
                sender.send(found)
            sender.send(None)
    except BrokenPipeError:
        os._exit(1)
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
    except Exception as error:
        sender.send(error)


def _limit_memory(most: int) -> None:
    """Let this process use so many bytes more than now; where there is no such limit, nothing."""
    with suppress(OSError, ValueError, AttributeError):
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        now = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (now + most, resource.RLIM_INFINITY))


