"""One text file's bytes, and the checks that every text goes through."""

from __future__ import annotations

from hashlib import sha256

from gpt1.corpus.decode import decode
from gpt1.corpus.document import Found, Piece, RefusedError
from gpt1.corpus.readers.limits import Reading


def text_piece(
    data: bytes, name: str, inside: str, file: str, member: str | None, reading: Reading
) -> Piece:
    """The piece of a text file with these bytes. RefusedError when they are no text."""
    if not data.strip():
        raise empty()
    decoded = decode(data, reading.fallback)
    check_text(decoded.text, reading)
    digest = sha256(data).hexdigest()
    return Piece(
        name, inside, file, member, decoded.text, decoded.encoding, decoded.how, len(data), digest,
        decoded.replaced
    )  # fmt: skip


def check_text(text: str, reading: Reading) -> None:
    """RefusedError for a text that is empty, has NUL characters or halves of surrogate pairs, or
    a line above the ceiling.
    """
    if not text or text.isspace():
        raise empty()
    at = text.find("\0")
    if at >= 0:
        raise RefusedError(
            "nul", f"character {at} is NUL, so this is not text", "text", "Fix it, or remove it."
        )
    long_line = _long_line(text, reading.limits.line)
    if long_line is not None:
        raise RefusedError(
            "long_line",
            f"a line of more than {reading.limits.line} characters, from character {long_line}",
            f"at most {reading.limits.line}", "Break its lines, remove it, or raise `max_line`.",
        )  # fmt: skip


def empty() -> RefusedError:
    """The refusal of what holds nothing."""
    return RefusedError(
        "empty", "it is empty", "the text of a book", "Remove it, or add its text."
    )


def or_empty(found: Found, file: str, member: str | None = None) -> Found:
    """What is found in a file of many books, or the refusal of what holds nothing."""
    first = next(found, None)
    yield empty().at(file, member) if first is None else first
    yield from found


def no_utf8(data: bytes, error: UnicodeDecodeError) -> RefusedError:
    """The refusal of a row whose bytes are no UTF-8, which its format asks for."""
    return RefusedError(
        "invalid_utf8", f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8",
        "UTF-8 text", "Convert the row to UTF-8, or remove it.",
    )  # fmt: skip


def _long_line(text: str, limit: int) -> int | None:
    """Where a line of more than `limit` characters begins; None without one.

    Leaps from line end to line end, `limit` at most.
    """
    start = 0
    while len(text) - start > limit:
        end = max(
            text.rfind("\n", start, start + limit + 1), text.rfind("\r", start, start + limit + 1)
        )
        if end < 0:
            return start
        start = end + 1
    return None
