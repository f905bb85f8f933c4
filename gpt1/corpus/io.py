"""Opening a listed file, wherever it is, and unpacking it as a stream under ceilings.

The file must be the one that was listed, before and after it is read. What comes out of a packed
stream is measured against what goes in, so that a bomb costs no more than the ceilings allow.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from gpt1.corpus.document import (
    MIB,
    ReadingConfig,
    SourceFile,
    UnreadableFileError,
    damaged,
    first_line,
    too_large,
)
from gpt1.corpus.hub import SCHEME, download
from gpt1.errors import UserError
from gpt1.paths import is_url

SLACK = 16 * MIB
"""Bytes that may come out of a compressed file before its ratio is looked at: small files of
blanks compress well too.
"""
CHUNK = 1 << 16
OnRead = Callable[[int, int | None], None]
"""Hears how many bytes of a file were read, of how many."""
_CHECKSUMS = ("ETag", "etag", "sha256", "md5Hash", "content_md5", "md5", "crc32c", "checksum")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


# ---------------------------------------------------------------------------------------------
# Files and URLs


@contextmanager
def open_source(file: SourceFile) -> Iterator[tuple[IO[bytes], int | None]]:
    """The file and its size in bytes (None where a server does not say).

    UserError when it cannot be read, or is, before or after, another than the listed one.
    """
    if is_url(file.location) and not file.location.startswith(SCHEME):
        with _open_url(file) as found:
            yield found
        return
    on_hub = file.location.startswith(SCHEME)
    path = download(file.location) if on_hub else Path(file.location)
    try:
        stream = path.open("rb")
        with stream:
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


def _verify(stream: IO[bytes], size: int, file: SourceFile) -> None:
    """Digests are the hub's (`git:` and git's sha1 of a blob) or a plain sha256."""
    if file.digest is None:
        return
    git = file.digest.startswith("git:")
    found = (
        hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False) if git else hashlib.sha256()
    )
    while data := stream.read(MIB):
        found.update(data)
    if found.hexdigest() != file.digest.removeprefix("git:"):
        raise _changed(file)


@contextmanager
def _open_url(file: SourceFile) -> Iterator[tuple[IO[bytes], int | None]]:
    system, path = _file_system(file.location)
    info = _ask(file, system.info, path)
    if file.digest not in (None, _digest_of(info)):
        raise _changed(file)
    with _ask(file, system.open, path, "rb") as stream:
        yield stream, info.get("size")
    system.invalidate_cache()
    if _digest_of(_ask(file, system.info, path)) != _digest_of(info):
        raise _changed(file)


def _ask(file: SourceFile, method: Callable[..., Any], *arguments: str) -> Any:
    """What a file system's method gives. UserError where it fails."""
    try:
        return method(*arguments)
    except Exception as error:  # every file system raises its own
        raise UserError(
            f"{file.name}: cannot be read ({type(error).__name__}: {first_line(error)}); run the"
            " command again."
        ) from error


def _changed(file: SourceFile) -> UserError:
    return UserError(
        f"{file.name}: the file changed since it was listed; run the command again when nothing"
        " writes to it."
    )


def list_url(url: str, is_book: Callable[[str], bool]) -> list[SourceFile]:
    """The files below a URL, or the one file it names, by their names below it.

    UserError when it has none or cannot be listed.
    """
    system, top = _file_system(url)
    name = PurePosixPath(top).name
    try:
        if is_book(name) and system.isfile(top):
            return [SourceFile(name, url, _digest_of(system.info(top)))]
        # Not the listing's own details: those of some file systems differ from what is said of a
        # file by itself.
        found = {path: _digest_of(system.info(path)) for path in system.find(top)}
        if not found:  # says why: some searches pass over a refused connection
            system.ls(top)
    except Exception as error:  # every file system raises its own
        raise _unusable(url, error, "listed") from error
    if not found:
        raise UserError(
            f"{without_password(url)}: nothing found; expected a folder or file of books. Fix the"
            " URL."
        )
    return [
        SourceFile(path.removeprefix(top).strip("/") or name, system.unstrip_protocol(path), digest)
        for path, digest in sorted(found.items())
    ]


def without_password(url: str) -> str:
    """The URL without a user and a password, for messages."""
    return re.sub(r"://[^/@]*@", "://", url)


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path on it. UserError when it cannot be opened."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except Exception as error:  # every file system raises its own
        raise _unusable(url, error, "opened") from error


def _unusable(url: str, error: Exception, done: str) -> UserError:
    scheme = url.partition("://")[0]
    advice = "Fix the URL or your access to it."
    if isinstance(error, ImportError) or "Protocol not known" in str(error):
        advice = f"Install the package for {scheme}://, or copy the files to a folder."
    return UserError(
        f"{without_password(url)}: {scheme}:// cannot be {done}"
        f" ({without_password(first_line(error))}); expected a folder or file of books. {advice}"
    )


def _digest_of(info: Mapping[str, Any]) -> str:
    """What a file system says of a file's content without reading it: a check sum, or size and
    time of change.
    """
    size = info.get("size")
    for key in (*_CHECKSUMS, *_TIMES):
        if info.get(key):
            return f"{key.lower()}:{str(info[key]).strip(chr(34))}:{size}"
    return f"size:{size}"


# ---------------------------------------------------------------------------------------------
# Streams


class CountingReader(io.RawIOBase):
    """A stream that counts the bytes read and says so to `on_read`.

    A fault in reading is a UserError: then it is not the content that is bad.
    """

    def __init__(
        self, stream: Any, size: int | None = None, name: str = "",
        on_read: OnRead | None = None,
    ) -> None:
        self._stream, self._name, self._on_read = stream, name, on_read
        self.size = size
        self.count = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def read(self, size: int = -1) -> bytes:
        try:
            data = bytes(self._stream.read(size))
        except UnreadableFileError:
            raise
        except Exception as error:  # whatever a remote file system raises
            raise UserError(
                f"{self._name}: reading failed after {self.count} bytes ({type(error).__name__}:"
                f" {first_line(error)}); run the command again."
            ) from error
        self.count += len(data)
        if self._on_read:
            self._on_read(self.count, self.size)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class UnpackedStream:
    """Unpacked bytes, read forwards only; UnreadableFileError at damage and at a bomb.

    `inner` unpacks them, `packed` says how many packed bytes they came out of so far.
    """

    def __init__(self, inner: Any, packed: Callable[[], int], config: ReadingConfig) -> None:
        self._inner, self._packed, self._config = inner, packed, config
        self.count = 0
        self.broken = False
        """Whether it has raised: no more can be read from it."""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes (all: as many as the ceilings allow), b"" at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        try:
            data = bytes(self._inner.read(size))
            self.count += len(data)
            check_size(self.count, self._packed(), self._config)
        except (UserError, UnreadableFileError, MemoryError):
            self.broken = True
            raise
        except Exception as error:  # of whichever library unpacks
            self.broken = True
            raise damaged(first_line(error)) from error
        return data

    def read_all(self, limit: int) -> bytes:
        """All bytes; UnreadableFileError when they are more than `limit`, of which no more are
        held.
        """
        found: list[bytes] = []
        start = self.count
        while data := self.read(CHUNK):
            if self.count - start > limit:
                raise too_large(limit)
            found.append(data)
        return b"".join(found)


def unpack(raw: CountingReader, codec: str | None, config: ReadingConfig) -> UnpackedStream:
    """The unpacked bytes of `raw`; `codec` None: they are not packed."""
    return UnpackedStream(_decompressor(raw, codec), lambda: raw.count, config)


def check_size(out: int, packed: int, config: ReadingConfig) -> None:
    """UnreadableFileError for what unpacks to more than an archive may hold, or to far more than
    prose does.
    """
    limit, ratio = config.max_archive, config.max_ratio
    if out > SLACK and out > ratio * packed:
        found = f"it expands to more than {ratio} times its compressed size"
        raise UnreadableFileError("bomb", found, limit=f"{ratio} times", setting="max_ratio")
    if out > limit:
        found = "it expands to more bytes than the limit"
        raise UnreadableFileError("bomb", found, limit=limit, setting="max_archive")


def _decompressor(raw: CountingReader, codec: str | None) -> Any:
    if codec is None:
        return raw
    if codec == "gz":
        return gzip.GzipFile(fileobj=cast(IO[bytes], io.BufferedReader(raw, CHUNK)))
    if codec == "zst":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    return (bz2.BZ2File if codec == "bz2" else lzma.LZMAFile)(cast(IO[bytes], raw))


# ---------------------------------------------------------------------------------------------
# Members of a zip file

_ENCRYPTED, _UTF8_NAME, _UNICODE_PATH = 0x1, 0x800, 0x7075


def open_zip(raw: Any) -> zipfile.ZipFile:
    """The zip file. UnreadableFileError when it is none."""
    try:
        return zipfile.ZipFile(cast(IO[bytes], raw))
    except (UserError, MemoryError):  # no fault of the file
        raise
    except Exception as error:  # BadZipFile, and what odd fields of its directory lead to
        raise damaged(first_line(error)) from error


def member_name(info: zipfile.ZipInfo) -> str:
    """A member's name. Many programs write UTF-8 without saying so; where the bytes are none,
    the name is in code page 437, as the format says.
    """
    if info.flag_bits & _UTF8_NAME:
        return info.filename
    raw = info.orig_filename.encode("cp437", "replace")
    extra = info.extra
    while len(extra) >= 4:
        kind, size = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        if kind == _UNICODE_PATH and size > 5:
            raw = extra[9 : 4 + size]
        extra = extra[4 + size :]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return info.filename


def open_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, config: ReadingConfig
) -> UnpackedStream:
    """A member's bytes under the ceilings. UnreadableFileError when it is encrypted, damaged or
    packed in a way that Python does not know.
    """
    if info.flag_bits & _ENCRYPTED:
        raise UnreadableFileError("encrypted", "it is encrypted")
    try:
        return UnpackedStream(archive.open(info), lambda: info.compress_size, config)
    except NotImplementedError as error:
        found = f"it is packed in an unsupported way ({first_line(error)})"
        raise UnreadableFileError("unsupported", found) from error
    except (UserError, MemoryError):  # no fault of the file
        raise
    except Exception as error:
        raise damaged(first_line(error)) from error
