"""One member of an archive, whatever the archive: its name looked at, then its books read."""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import IO, Any, cast

from gpt1.corpus.document import Found, Refused, RefusedError
from gpt1.corpus.readers.epub import epub_piece
from gpt1.corpus.readers.forms import LISTED, Form, form_of, hidden
from gpt1.corpus.readers.inflate import Counted, inflated, read_whole
from gpt1.corpus.readers.jsonl import read_jsonl
from gpt1.corpus.readers.limits import Reading
from gpt1.corpus.readers.listed import printable
from gpt1.corpus.readers.text import or_empty, text_piece


def member_books(member: str, file: str, stream: Callable[[], Any], reading: Reading) -> Found:
    """The books of a regular member called `member` of the archive `file`; `stream` opens its
    bytes.
    """
    refusal = bad_name(member)
    if refusal is not None:
        yield refusal.at(file, printable(member))
        return
    if hidden(member):
        return
    form = form_of(member)
    if form is None:
        yield unknown_form(file, member)
        return
    try:
        if form.kind in ("zip", "tar", "parquet"):
            do = "Unpack the outer archive and put this file next to the others."
            raise RefusedError(
                "nested", f"a {form.kind} file inside an archive",
                "text, EPUB or JSON lines inside", do,
            )
        yield from _books(form, member, file, stream(), reading)
    except RefusedError as error:
        yield error.at(file, member)


def bad_name(member: str) -> RefusedError | None:
    """Why a member's name is refused: it is absolute, leads out of the archive, or is not
    printable text.
    """
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        found = "a name that points outside the archive"
        return RefusedError(
            "unsafe_path", found, "a relative name without `..`",
            "Do not trust this archive, or repack it.",
        )
    if printable(member) != member:
        return RefusedError(
            "bad_name", "a name with unprintable characters", "a name in UTF-8", "Rename it."
        )
    return None


def unknown_form(file: str, member: str | None) -> Refused:
    """The record of a file that is no book by its name."""
    return Refused(
        file, member, "unknown_form", "its name is not that of a book or an archive of books",
        LISTED, "Skipped.",
    )


def _books(form: Form, member: str, file: str, stream: Any, reading: Reading) -> Found:
    inside = posixpath.normpath(member)
    name = f"{file}/{inside}"
    if form.codec:
        stream = inflated(Counted(cast(IO[bytes], stream)), form.codec, reading.limits)
    if form.kind == "jsonl":
        yield from or_empty(read_jsonl(stream, name, file, member, reading), file, member)
    elif form.kind == "epub":
        yield epub_piece(
            read_whole(stream, reading.limits.document), name, inside, file, member, reading
        )
    else:
        yield text_piece(
            read_whole(stream, reading.limits.document), name, inside, file, member, reading
        )


def loose_books(data: bytes, form: Form, file: str, reading: Reading) -> Found:
    """The one book of a file that lies by itself, from its bytes."""
    try:
        if form.kind == "epub":
            yield epub_piece(data, file, file, file, None, reading)
            return
        if form.codec and data:
            data = read_whole(
                inflated(Counted(io.BytesIO(data)), form.codec, reading.limits),
                reading.limits.document,
            )
        yield text_piece(data, file, file, file, None, reading)
    except RefusedError as error:
        yield error.at(file)
