"""Streams that are unpacked under ceilings, and the members of zip and tar files. Nothing is
unpacked to disk.

What comes out of a packed stream is measured against what goes in, so that a bomb costs no more
than the ceilings allow.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, cast

from gpt1.corpus.discover import is_hidden
from gpt1.corpus.document import (
    MIB,
    ReadingConfig,
    UnreadableFileError,
    damaged,
    first_line,
    too_large,
)
from gpt1.errors import UserError

SLACK = 16 * MIB
"""Bytes that may come out of a compressed file before its ratio is looked at: small files of
blanks compress well too.
"""
CHUNK = 1 << 16
OnRead = Callable[[int, int | None], None]
"""Hears how many bytes of a file were read, of how many."""


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


@dataclass(frozen=True)
class Member:
    """One member of an archive: its name as it is written there, its size in bytes, whether it is a
    regular file, and what opens it.
    """

    name: str
    size: int
    regular: bool
    open: Callable[[], Any]


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


def zip_members(raw: Any, config: ReadingConfig) -> Iterator[Member]:
    """The members of a zip file, in the order of its directory; folders and hidden files left out.
    UnreadableFileError when it is none.
    """
    archive = open_zip(raw)
    for info in archive.infolist():
        name = member_name(info)
        if not name.endswith(("/", "\\")) and not is_hidden(name.replace("\\", "/")):
            regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
            opened = partial(open_member, archive, info, config)
            yield Member(name, info.file_size, regular, opened)


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


# ---------------------------------------------------------------------------------------------
# Tar (POSIX.1-2001 pax, ustar and GNU headers)
#
# Read here and not by tarfile: that one believes every length in a header, looks for lengths of
# pax records in time that grows with the square, and keeps all headers.

_BLOCK = 512
_MOST_HEADER = 1 << 20
"""No honest member has more bytes of headers (long names and pax records) than this."""
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SPARSE = b"L", b"K", b"x", b"g", b"S"
_REGULAR, _FOLDER, _NO_DATA = (b"\0", b"0", b"7"), b"5", b"123456"  # links, devices, folders


@dataclass
class _TarData:
    """The bytes of a member that are still to be read."""

    stream: UnpackedStream
    left: int

    def open(self) -> _TarData:
        return self

    def read(self, size: int = -1) -> bytes:
        if not self.left or not size:
            return b""
        data = self.stream.read(min(self.left, CHUNK, size if size > 0 else CHUNK))
        if not data:
            raise damaged("it ends in the middle of a member")
        self.left -= len(data)
        return data


def tar_members(stream: UnpackedStream, most: int) -> Iterator[Member]:
    """The members of a tar file, of at most `most` bytes each, in its order; folders and hidden
    files left out. UnreadableFileError at damage.
    """
    pax: dict[str, str] = {}
    while (block := _read_block(stream, _BLOCK, at_end=True)).strip(b"\0"):
        kind, size = block[156:157], _number(block[124:136])
        if _number(block[148:156]) not in _check_sums(block[:148] + b" " * 8 + block[156:]):
            raise damaged(f"no tar header after {stream.count - _BLOCK} bytes")
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            if size > _MOST_HEADER:
                raise damaged("a header of more than a megabyte")
            header = _read_block(stream, size + -size % _BLOCK)[:size]
            if kind == _LONG_NAME:
                pax["path"] = _text(header)
            elif kind == _PAX:
                pax |= _pax_records(header)
            continue
        prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
        name = pax.get("path") or "/".join(filter(None, (prefix, _text(block[:100]))))
        if pax.get("size", "").isdecimal():
            size = int(pax["size"][:30])
        if kind == _SPARSE and block[482]:
            while _read_block(stream, _BLOCK)[504]:
                pass
        size = 0 if kind in _NO_DATA else size
        if size > most:
            raise damaged(f"a member of {size} bytes")
        regular = kind in _REGULAR and not any(key.startswith("GNU.sparse") for key in pax)
        folder = kind == _FOLDER or (regular and name.endswith("/"))
        pax, data = {}, _TarData(stream, size)
        if not folder and not is_hidden(name.replace("\\", "/")):
            yield Member(name, size, regular, data.open)
        while data.read(CHUNK):
            pass
        _read_block(stream, -size % _BLOCK, at_end=True)


def _check_sums(block: bytes) -> tuple[int, int]:
    """The sum of a header's bytes, and what programs give that take them as signed."""
    return sum(block), sum(block) - 256 * sum(byte > 127 for byte in block)


def _read_block(stream: UnpackedStream, size: int, at_end: bool = False) -> bytes:
    """`size` bytes; nothing at all at the end of the stream, where that may be."""
    found = bytearray()
    while len(found) < size and (data := stream.read(min(CHUNK, size - len(found)))):
        found += data
    if len(found) < size and (found or not at_end):
        raise damaged("it ends in the middle of a header")
    return bytes(found)


def _number(field: bytes) -> int:
    """A number in octal digits, or in binary where it is too large for them."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0").partition(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", digits):
        raise damaged(f"{digits!r} in a tar header is no number")
    return int(digits or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax_records(data: bytes) -> dict[str, str]:
    """The records `LENGTH key=value` and a line end."""
    records: dict[str, str] = {}
    start = 0
    while start < len(data) and data[start]:
        length, space, _ = data[start : start + 20].partition(b" ")
        if not space or not length.isdigit() or int(length) <= len(length) + 2:
            raise damaged("a pax header without the length of its records")
        record = data[start + len(length) + 1 : start + int(length) - 1]
        key, _, value = record.partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        start += int(length)
    return records
