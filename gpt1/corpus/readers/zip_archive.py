"""A zip file: its members in the order of its directory, streamed."""

from __future__ import annotations

import stat
import zipfile
from functools import partial
from typing import IO, cast

from gpt1.corpus.document import Found, RefusedError
from gpt1.corpus.readers.inflate import Inflated, Metered, check_size, damaged
from gpt1.corpus.readers.limits import Limits, Reading
from gpt1.corpus.readers.member import member_books
from gpt1.corpus.readers.zip_member import UNREADABLE, member_stream


def read_zip(raw: Metered, size: int, file: str, reading: Reading) -> Found:
    """The books of a zip file of `size` bytes.

    A bad member costs that member; the ceilings hold for the sum of them too.
    """
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], raw))
    except UNREADABLE as error:
        yield damaged(str(error)).at(file)
        return
    out = 0
    for info in archive.infolist():
        if info.is_dir():
            continue
        if not _regular(info):
            yield RefusedError(
                "not_a_file", "it is not a regular file", "a file with text in it",
                "Pack the file itself.",
            ).at(file, info.filename)
            continue
        streams: list[Inflated] = []
        yield from member_books(
            info.filename, file, partial(_open, archive, info, reading.limits, streams), reading
        )
        out += sum(stream.count for stream in streams)
        try:
            check_size(out, size, reading.limits)
        except RefusedError as error:
            yield error.at(file)
            return


def _open(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits, streams: list[Inflated]
) -> Inflated:
    streams.append(member_stream(archive, info, limits))
    return streams[-1]


def _regular(info: zipfile.ZipInfo) -> bool:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return kind in (0, stat.S_IFREG)
