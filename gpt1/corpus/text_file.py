"""Reading one text file of this machine by itself."""

from __future__ import annotations

from pathlib import Path

from gpt1.corpus.decode import decode
from gpt1.corpus.document import RefusedError
from gpt1.corpus.io import read_file
from gpt1.corpus.readers.listed import Listed
from gpt1.errors import UserError

_LIMIT = 1 << 30


def read_text(path: Path, name: str, fallback: str | None = None) -> tuple[str, str]:
    """The text of a file and the encoding it was read in; `fallback` as `fallback_encoding` of the
    ingest stage, None refuses.

    UserError for bytes that cannot be decoded (with their offset), and for a file that cannot be
    read.
    """
    try:
        decoded = decode(read_file(Listed(name, str(path)), _LIMIT), fallback or "none")
    except RefusedError as error:
        raise UserError(error.at(name).sentence()) from error
    return decoded.text, decoded.encoding
