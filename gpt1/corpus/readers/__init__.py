"""Readers of the formats in which people have books: each gives the documents of a stream, and a
skipped file for what it cannot read.

Of archives, names that lead out, links and devices are skipped; a size and a ratio limit hold for
each member and for all together.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from gpt1.corpus.discover import LISTED, Format, format_of, is_hidden, open_source
from gpt1.corpus.document import (
    Place,
    Read,
    ReadingConfig,
    SkippedFile,
    SourceFile,
    UnreadableFileError,
    guarded,
    printable,
    too_large,
)
from gpt1.corpus.readers.archives import (
    CHUNK,
    CountingReader,
    OnRead,
    UnpackedStream,
    check_size,
    member_name,
    open_member,
    open_zip,
    tar_members,
    unpack,
)
from gpt1.corpus.readers.epub import read_epub
from gpt1.corpus.readers.tables import json_rows, parquet_rows, read_rows
from gpt1.corpus.readers.text import read_text


def read_source(
    file: SourceFile, config: ReadingConfig, on_read: OnRead | None = None
) -> Read:
    """The documents of one file of the corpus, and what of it had to be skipped.

    `on_read` hears how much of it was read. UserError when the file cannot be had, or is not the
    one that was listed; everything else that goes wrong is a SkippedFile.
    """
    found = format_of(file.name)
    assert found is not None
    place = Place(file.name)
    with open_source(file) as (stream, size):
        raw = CountingReader(stream, size, file.name, on_read)
        yield from guarded(read_stream(raw, place, found, config), place)


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
    if fault := _fault_of(name, regular, size, config):
        raise fault
    place, found = Place(archive.file, name.replace("\\", "/")), format_of(name)
    assert found is not None
    yield from read_stream(CountingReader(opened(), None, place.source), place, found, config)


def _fault_of(
    name: str, regular: bool, size: int, config: ReadingConfig
) -> UnreadableFileError | None:
    """Why a member is not read."""
    # Zip files made on Windows by old programs have backslashes; no other name has them.
    path, found = PurePosixPath(name.replace("\\", "/")), format_of(name)
    if not regular:
        return UnreadableFileError("not_a_file", "it is a link or not a regular file")
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        return UnreadableFileError("unsafe_path", "a name that points outside the archive")
    if printable(name) != name:
        return UnreadableFileError("bad_name", "a name with unprintable characters")
    if found is None:
        what = "its name is not that of a book or an archive of books"
        return UnreadableFileError("unknown_form", what, formats=LISTED)
    if found.kind in ("zip", "tar", "parquet"):
        return UnreadableFileError("nested", f"a {found.kind} file inside an archive")
    if size > config.max_document and found.kind != "jsonl":
        return too_large(config.max_document)
    return None


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
        if _fault_of(name, regular, info.file_size, config) is None:
            out += info.file_size  # zipfile reads no more
            check_size(out, raw.size or raw.count, config)
        opened = partial(open_member, archive, info, config)
        member = _read_member(name, place, config, opened, regular, info.file_size)
        yield from guarded(member, Place(place.file, name))


def _read_tar(stream: UnpackedStream, place: Place, config: ReadingConfig) -> Read:
    """The documents of a tar file, in its order. What was read before damage or a bomb is kept;
    the rest is one skipped file.
    """
    for member in tar_members(stream, config.max_archive):
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
