"""A tar file, read forwards once: nothing is unpacked to disk, and headers cannot fill the
memory.
"""

from __future__ import annotations

import tarfile
from dataclasses import replace
from typing import IO, cast

from gpt1.corpus.document import Found, Refused, RefusedError
from gpt1.corpus.readers.inflate import Inflated, damaged
from gpt1.corpus.readers.limits import MIB, Reading
from gpt1.corpus.readers.member import member_books

_BLOCK = 1 << 16
_HEADERS = MIB
"""No honest member has more bytes of headers (long names and pax records) than this."""
_ENDED = "end of file header"  # tarfile's word for the block of NULs that ends an archive


class _Member(tarfile.TarInfo):
    """tarfile ends in silence at a header it cannot read; here it says so."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if str(error) == _ENDED:
                raise
            raise damaged(f"{error} after {archive.offset} bytes") from error


def read_tar(stream: Inflated, file: str, reading: Reading) -> Found:
    """The books of a tar file, in its order.

    What was read before damage or a bomb is kept; the rest is one refusal.
    """
    stream.stop_at = _HEADERS + 2 * _BLOCK  # tarfile reads the first header when it opens
    try:
        archive = tarfile.open(  # noqa: SIM115 (the stream is not its own)
            fileobj=cast(IO[bytes], stream), mode="r|", bufsize=_BLOCK, tarinfo=_Member
        )
        while True:
            stream.stop_at = archive.offset + _HEADERS + 2 * _BLOCK
            member = archive.next()
            if member is None:
                break
            stream.stop_at = None
            vars(archive)["members"].clear()  # else all headers are kept
            for found in _read_member(archive, member, file, reading):
                if stream.broken and isinstance(found, Refused):
                    yield replace(
                        found, found=f"{found.found}; the rest of the archive is not read"
                    )
                    return
                yield found
        stream.stop_at = None
        while stream.read(_BLOCK):  # the check sums of what is packed stand at its end
            pass
    except tarfile.TarError as error:
        yield damaged(str(error)).at(file)
    except RefusedError as error:
        yield error.at(file)


def _read_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, file: str, reading: Reading
) -> Found:
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "not a regular file"
        error = RefusedError(
            "not_a_file", f"it is {kind}", "a file with text in it", "Pack the file itself."
        )
        yield error.at(file, member.name)
        return
    if member.size > reading.limits.document and not member.name.lower().endswith(
        (".jsonl", ".ndjson")
    ):
        found = f"a member of {member.size} bytes"
        yield RefusedError(
            "too_large", found, f"at most {reading.limits.document}",
            "Split it, or raise `max_document`."
        ).at(file, member.name)  # fmt: skip
        return
    yield from member_books(member.name, file, lambda: archive.extractfile(member), reading)
