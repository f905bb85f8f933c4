"""The bytes of one member of a zip file."""

from __future__ import annotations

import zipfile

from gpt1.corpus.document import RefusedError
from gpt1.corpus.readers.inflate import Inflated, damaged, read_whole
from gpt1.corpus.readers.limits import Limits

_ENCRYPTED = 0x1
# What zipfile raises for a file it cannot read; NotImplementedError is its word for a way of
# packing that it does not know.
UNREADABLE = (zipfile.BadZipFile, NotImplementedError, OSError, ValueError)


def member_stream(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits) -> Inflated:
    """Its bytes as a stream under the ceilings.

    RefusedError when it is encrypted, damaged or packed in an unknown way.
    """
    if info.flag_bits & _ENCRYPTED:
        raise RefusedError(
            "encrypted", "it is encrypted", "a member without a password",
            "Unpack it yourself, or remove it.",
        )
    try:
        return Inflated(archive.open(info), lambda: info.compress_size, limits)
    except UNREADABLE as error:
        raise damaged(str(error)) from error


def open_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: Limits, most: int
) -> bytes:
    """All its bytes; RefusedError when they are more than `most`."""
    return read_whole(member_stream(archive, info, limits), most)
