"""Opening a listed file, wherever it lies, and making sure that it is the one that was listed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gpt1.corpus.readers.hub import SCHEME, download
from gpt1.corpus.readers.inflate import Metered, read_whole, too_large
from gpt1.corpus.readers.listed import Listed
from gpt1.corpus.readers.remote import file_system, mark
from gpt1.errors import UserError
from gpt1.paths import is_url

_CHUNK = 1 << 20


@contextmanager
def opened(file: Listed) -> Iterator[tuple[IO[bytes], int]]:
    """The file and its size in bytes.

    UserError when it cannot be read, or is, before or after, another than the listed one.
    """
    if is_url(file.where) and not file.where.startswith(SCHEME):
        with _remote(file) as found:
            yield found
        return
    path = _local(file)
    try:
        with path.open("rb") as stream:
            before = os.fstat(stream.fileno())
            _verify(stream, before.st_size, file)
            stream.seek(0)
            yield stream, before.st_size
            after = path.stat()
    except OSError as error:
        raise UserError(
            f"{file.name}: cannot be read ({error.strerror}); expected a readable file."
        ) from error
    if (before.st_size, before.st_mtime_ns, before.st_ino) != (
        after.st_size, after.st_mtime_ns, after.st_ino,
    ):
        raise _changed(file)


def read_file(file: Listed, limit: int) -> bytes:
    """All bytes of a file.

    RefusedError when it has more than `limit`, of which none is held; UserError as `opened`.
    """
    with opened(file) as (stream, size):
        if size > limit:
            raise too_large(limit)
        return read_whole(Metered(stream, file.name), limit)


def _local(file: Listed) -> Path:
    return download(file.where) if file.where.startswith(SCHEME) else Path(file.where)


def _verify(stream: IO[bytes], size: int, file: Listed) -> None:
    """Digests are the hub's (`git:` and git's sha1 of a blob) or a plain sha256."""
    if file.digest is None:
        return
    git = file.digest.startswith("git:")
    found = (
        hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False) if git else hashlib.sha256()
    )
    while data := stream.read(_CHUNK):
        found.update(data)
    if found.hexdigest() != file.digest.removeprefix("git:"):
        raise _changed(file)


@contextmanager
def _remote(file: Listed) -> Iterator[tuple[IO[bytes], int]]:
    system, path = file_system(file.where)
    try:
        info = system.info(path)
        stream = system.open(path, "rb")
    except Exception as error:  # every file system raises its own
        raise UserError(
            f"{file.name}: cannot be read ({type(error).__name__}: {error}); run the command again."
        ) from error
    if file.digest not in (None, mark(info)):
        raise _changed(file)
    with stream:
        yield stream, int(info.get("size") or 0)
    system.invalidate_cache()
    if mark(system.info(path)) != mark(info):
        raise _changed(file)


def _changed(file: Listed) -> UserError:
    return UserError(
        f"{file.name}: the file changed since it was listed; run the command again when nothing"
        " writes to it."
    )
