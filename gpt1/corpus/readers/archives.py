"""Zip and tar files, read as streams: nothing is unpacked to disk.

Names that lead out of the archive, links and devices are skipped; a size and a ratio limit hold
for each member and for all together.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from gpt1.corpus.discover import LISTED, Format, format_of, is_hidden
from gpt1.corpus.document import (
    Place,
    Read,
    ReadingConfig,
    SkippedFile,
    UnreadableFileError,
    damaged,
    guarded,
    printable,
    too_large,
)
from gpt1.corpus.io import (
    CHUNK,
    CountingReader,
    UnpackedStream,
    check_size,
    member_name,
    open_member,
    open_zip,
    unpack,
)
from gpt1.corpus.readers.epub import read_epub
from gpt1.corpus.readers.tables import json_rows, parquet_rows, read_rows
from gpt1.corpus.readers.text import read_text


def read_stream(
    raw: CountingReader, place: Place, found: Format, config: ReadingConfig
) -> Read:
    """The documents of a file, or of a member of an archive, by its format."""
    if raw.size == 0:
        raise UnreadableFileError("empty", "it is empty")
    if found.kind == "zip":
        yield from _read_zip(raw, place, config)
    elif found.kind == "parquet":
        yield from read_rows(parquet_rows(raw, place, config), place, config)
    else:
        stream = unpack(raw, found.codec, config)
        if found.kind == "tar":
            yield from _read_tar(stream, place, config)
        elif found.kind == "jsonl":
            yield from read_rows(json_rows(stream, place, config), place, config)
        else:
            read = read_epub if found.kind == "epub" else read_text
            yield read(stream.read_all(config.max_document), place, config)


def _read_member(
    name: str, archive: Place, config: ReadingConfig, opened: Callable[[], Any], regular: bool,
    size: int,
) -> Read:
    """The documents of a member of `size` bytes, by its name; `opened` opens them."""
    # Zip files made on Windows by old programs have backslashes; no other name has them.
    name = name.replace("\\", "/")
    place, found = Place(archive.file, name), format_of(name)
    path = PurePosixPath(name)
    if not regular:
        raise UnreadableFileError("not_a_file", "it is a link or not a regular file")
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise UnreadableFileError("unsafe_path", "a name that points outside the archive")
    if printable(name) != name:
        raise UnreadableFileError("bad_name", "a name with unprintable characters")
    if found is None:
        what = "its name is not that of a book or an archive of books"
        raise UnreadableFileError("unknown_form", what, formats=LISTED)
    if found.kind in ("zip", "tar", "parquet"):
        raise UnreadableFileError("nested", f"a {found.kind} file inside an archive")
    if size > config.max_document and found.kind != "jsonl":
        raise too_large(config.max_document)
    yield from read_stream(CountingReader(opened(), None, place.source), place, found, config)


# ---------------------------------------------------------------------------------------------
# Zip


def _read_zip(raw: CountingReader, place: Place, config: ReadingConfig) -> Read:
    """The documents of a zip file, in the order of its directory. A bad member costs that
    member.
    """
    out = 0
    archive = open_zip(raw)
    for info in archive.infolist():
        name = member_name(info)
        if name.endswith(("/", "\\")) or is_hidden(name.replace("\\", "/")):
            continue
        regular = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
        out += min(info.file_size, config.max_document)  # zipfile reads no more
        check_size(out, raw.size or raw.count, config)
        opened = partial(open_member, archive, info, config)
        member = _read_member(name, place, config, opened, regular, info.file_size)
        yield from guarded(member, Place(place.file, name))


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
class _TarMember:
    """One member: its name, whether it is a regular file, and its bytes as a stream."""

    name: str
    regular: bool
    left: int
    stream: UnpackedStream
    is_folder: bool = False

    def open(self) -> _TarMember:
        return self

    def read(self, size: int = -1) -> bytes:
        if not self.left or not size:
            return b""
        data = self.stream.read(min(self.left, CHUNK, size if size > 0 else CHUNK))
        if not data:
            raise damaged("it ends in the middle of a member")
        self.left -= len(data)
        return data

    def skip(self) -> None:
        """Read what is left of it."""
        while self.left:
            self.read(CHUNK)


def _read_tar(stream: UnpackedStream, place: Place, config: ReadingConfig) -> Read:
    """The documents of a tar file, in its order. What was read before damage or a bomb is kept;
    the rest is one skipped file.
    """
    for member in _tar_members(stream, config.max_archive):
        if member.is_folder or is_hidden(member.name.replace("\\", "/")):
            continue
        name = member.name
        read = _read_member(name, place, config, member.open, member.regular, member.left)
        for found in guarded(read, Place(place.file, name)):
            if stream.broken and isinstance(found, SkippedFile):
                rest = f"{found.found}; the rest of the archive is not read"
                yield replace(found, found=rest)
                return
            yield found
    while stream.read(CHUNK):  # the check sums of what is packed are at its end
        pass


def _tar_members(stream: UnpackedStream, most: int) -> Iterator[_TarMember]:
    pax: dict[str, str] = {}
    while (block := _read_block(stream, _BLOCK, at_end=True)).strip(b"\0"):
        kind, size = block[156:157], _number(block[124:136])
        if _number(block[148:156]) not in _check_sums(block[:148] + b" " * 8 + block[156:]):
            raise damaged(f"no tar header after {stream.count - _BLOCK} bytes")
        if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
            if size > _MOST_HEADER:
                raise damaged("a header of more than a megabyte")
            data = _read_block(stream, size + -size % _BLOCK)[:size]
            if kind == _LONG_NAME:
                pax["path"] = _text(data)
            elif kind == _PAX:
                pax |= _pax_records(data)
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
        pax = {}
        member = _TarMember(name, regular, size, stream, folder)
        yield member
        member.skip()
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
