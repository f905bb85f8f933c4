"""Readers of the formats in which people have books: each gives the documents of a stream, and a
skipped file for what it cannot read.

Of archives, names that lead out, links and devices are skipped; a size and a ratio limit hold for
each member and for all together.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from gpt1.corpus.discover import LISTED, Format, format_of, open_source
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
    Member,
    OnRead,
    UnpackedStream,
    check_size,
    tar_members,
    unpack,
    zip_members,
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


def _read_zip(raw: CountingReader, place: Place, config: ReadingConfig) -> Read:
    """The documents of a zip file. A bad member costs that member."""
    out = 0
    for member in zip_members(raw, config):
        if _fault_of(member, config) is None:
            out += member.size  # zipfile reads no more
            check_size(out, raw.size or raw.count, config)
        yield from _read_member(member, place, config)


def _read_tar(stream: UnpackedStream, place: Place, config: ReadingConfig) -> Read:
    """The documents of a tar file. What was read before damage or a bomb is kept; the rest is one
    skipped file.
    """
    for member in tar_members(stream, config.max_archive):
        for found in _read_member(member, place, config):
            if stream.broken and isinstance(found, SkippedFile):
                rest = f"{found.found}; the rest of the archive is not read"
                yield replace(found, found=rest)
                return
            yield found
    while stream.read(CHUNK):  # the check sums of what is packed are at its end
        pass


def _read_member(member: Member, archive: Place, config: ReadingConfig) -> Read:
    """The documents of a member, by its name."""

    def documents() -> Read:
        if fault := _fault_of(member, config):
            raise fault
        place = Place(archive.file, member.name.replace("\\", "/"))
        found = format_of(member.name)
        assert found is not None
        raw = CountingReader(member.open(), None, place.source)
        yield from read_stream(raw, place, found, config)

    yield from guarded(documents(), Place(archive.file, member.name))


def _fault_of(member: Member, config: ReadingConfig) -> UnreadableFileError | None:
    """Why a member is not read."""
    name, found = member.name, format_of(member.name)
    # Zip files made on Windows by old programs have backslashes; no other name has them.
    path = PurePosixPath(name.replace("\\", "/"))
    if not member.regular:
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
    if member.size > config.max_document and found.kind != "jsonl":
        return too_large(config.max_document)
    return None
