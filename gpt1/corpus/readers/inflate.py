"""Packed bytes unpacked as a stream, with what comes out measured against what goes in."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any, cast

from gpt1.corpus.document import RefusedError
from gpt1.corpus.readers.limits import MIB, SLACK, Limits
from gpt1.errors import UserError

_CHUNK = 1 << 16
_BAD_CONTENT = (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, zipfile.BadZipFile)
_XZ_MEMORY = 256 * MIB  # the largest preset of xz needs 65 MiB


class Counted(io.RawIOBase):
    """A stream that counts the bytes read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.count = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class Metered(Counted):
    """A file from outside: says how far it is read.

    A fault in reading is a UserError: then it is not the content that is bad.
    """

    def __init__(
        self, file: IO[bytes], name: str, moved: Callable[[int], None] | None = None
    ) -> None:
        super().__init__(file)
        self._name, self._moved = name, moved

    def read(self, size: int = -1) -> bytes:
        try:
            data = super().read(size)
        except Exception as error:  # whatever a remote file system raises
            raise UserError(
                f"{self._name}: reading failed after {self.count} bytes ({type(error).__name__}:"
                f" {error}); run the command again."
            ) from error
        if self._moved:
            self._moved(self.count)
        return data


class Inflated:
    """Unpacked bytes, read forwards only; RefusedError at damage and at a bomb.

    `inner` unpacks them, `packed` says how many packed bytes they came out of so far. `stop_at` is
    a further ceiling on the position that a reader may set and lift.
    """

    def __init__(self, inner: Any, packed: Callable[[], int], limits: Limits) -> None:
        self._inner, self._packed, self._limits = inner, packed, limits
        self.count = 0
        self.stop_at: int | None = None
        self.broken = False
        """Whether it has raised: no more can be read from it."""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes (all: as many as the ceilings allow), b"" at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        try:
            return self._read(size)
        except RefusedError:
            self.broken = True
            raise

    def _read(self, size: int) -> bytes:
        try:
            data = self._inner.read(size)
        except _BAD_CONTENT as error:
            raise damaged(str(error) or type(error).__name__) from error
        self.count += len(data)
        self._check()
        return data

    def _check(self) -> None:
        if self.stop_at is not None and self.count > self.stop_at:
            raise damaged("a header of more than a megabyte")
        check_size(self.count, self._packed(), self._limits)


def inflated(raw: Counted, codec: str | None, limits: Limits) -> Inflated:
    """The unpacked bytes of `raw`; `codec` None: they are not packed."""
    return Inflated(_opened(raw, codec), lambda: raw.count, limits)


def check_size(out: int, packed: int, limits: Limits) -> None:
    """RefusedError for what unpacks to more than an archive may hold, or to far more than prose
    does.
    """
    if out > SLACK and out > limits.ratio * packed:
        raise RefusedError(
            "bomb", f"it expands to more than {limits.ratio} times its compressed size",
            f"at most {limits.ratio} times", "Remove it, or raise `max_ratio` if you trust it.",
        )  # fmt: skip
    if out > limits.archive:
        expected = f"at most {limits.archive}"
        raise RefusedError(
            "bomb", "it expands to more bytes than the limit", expected,
            "Split it, or raise `max_archive`.",
        )


def damaged(how: str) -> RefusedError:
    """The refusal of a cut or broken file."""
    return RefusedError(
        "damaged", f"cut short or damaged ({how.strip().splitlines()[0]})", "a complete file",
        "Download it again.",
    )


def read_whole(stream: Any, limit: int) -> bytes:
    """All bytes of a stream.

    RefusedError when they are more than `limit`; no more than that is held.
    """
    found: list[bytes] = []
    size = 0
    while data := stream.read(_CHUNK):
        size += len(data)
        if size > limit:
            raise too_large(limit)
        found.append(data)
    return b"".join(found)


def too_large(limit: int) -> RefusedError:
    """The refusal of a text above the ceiling."""
    return RefusedError(
        "too_large", f"a text of more than {limit} bytes", f"at most {limit}",
        "Split it, or raise `max_document`.",
    )


def _opened(raw: Counted, codec: str | None) -> Any:
    if codec is None:
        return raw
    if codec == "gz":
        return gzip.GzipFile(fileobj=cast(IO[bytes], io.BufferedReader(raw, _CHUNK)))
    if codec == "zst":
        import pyarrow as pa

        return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    return _Unpacked(raw, bz2.BZ2Decompressor if codec == "bz2" else _xz)


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)


class _Unpacked:
    """bzip2 or xz, one or more streams in a row.

    The standard library's file for xz has no ceiling on memory.
    """

    def __init__(self, raw: Counted, make: Callable[[], Any]) -> None:
        self._raw, self._make = raw, make
        self._machine = make()
        self._packed = b""
        self._begun = False

    def read(self, size: int) -> bytes:
        while True:
            if self._machine.eof:
                # xz pads with NULs between streams and at the end.
                self._packed = (self._machine.unused_data or self._raw.read(_CHUNK)).lstrip(b"\0")
                if not self._packed:
                    return b""
                self._machine = self._make()
            elif self._machine.needs_input:
                self._packed = self._raw.read(_CHUNK)
                if not self._packed and not self._begun:
                    return b""
                if not self._packed:
                    raise EOFError("it ends before its end marker")
            self._begun = True
            data = self._machine.decompress(self._packed, size)
            self._packed = b""
            if data:
                return bytes(data)
