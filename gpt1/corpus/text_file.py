"""Reading one text file, or saying exactly why it is none."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from gpt1.errors import UserError


def read_text(path: Path, name: str, fallback: str | None = None, digest: str | None = None) -> tuple[str, str]:
    """The text of a file and the encoding it was read in: UTF-8 with or without byte order mark, else `fallback`.

    `digest` is the sha256 the bytes must have. UserError for an empty file, NUL bytes, bytes that cannot be decoded (with their
    offset), a file that has changed or gone.
    """
    data = _bytes(path, name)
    if digest is not None and sha256(data).hexdigest() != digest:
        raise UserError(f"{name}: the file changed while it was being read; run the command again when nobody writes to it.")
    if not data.strip():
        raise UserError(f"{name}: the file is empty; expected the text of a book. Remove the file or put its text in place.")
    if (at := data.find(b"\0")) >= 0:
        raise UserError(f"{name}: byte {at} is NUL, so this is no text file; expected UTF-8 text. Convert the file or remove it.")
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError as error:
        if fallback is None:
            raise UserError(
                f"{name}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; expected UTF-8 text. "
                "Convert the file, remove it, or set `fallback_encoding: windows-1252`."
            ) from error
    # Windows-1252 leaves five byte values undefined: those become U+FFFD, which no word contains.
    return data.decode(fallback, "replace"), fallback


def file_digest(path: Path, name: str) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    return sha256(_bytes(path, name)).hexdigest()


def _bytes(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror}); expected a readable text file.") from error
