"""One text file's bytes, and the checks that every text goes through."""

from __future__ import annotations

from hashlib import sha256

from gpt1.corpus.decode import decode
from gpt1.corpus.document import (
    Document,
    Place,
    ReadingConfig,
    TextOrigin,
    UnreadableFileError,
)


def read_text(data: bytes, place: Place, config: ReadingConfig) -> Document:
    """The document of a text file. UnreadableFileError when its bytes are no text."""
    if not data.strip():
        raise UnreadableFileError("empty", "it is empty")
    decoded = decode(data, config.fallback_encoding)
    check_text(decoded.text, config)
    origin = TextOrigin(
        *place, decoded.encoding, decoded.how, len(data), sha256(data).hexdigest(),
        decoded.replaced,
    )
    return Document("", "", None, place.source, decoded.text, origins=(origin,))


def check_text(text: str, config: ReadingConfig) -> None:
    """UnreadableFileError for a text that is empty, has NUL characters, or a line above the
    ceiling.
    """
    if not text or text.isspace():
        raise UnreadableFileError("empty", "it is empty")
    at = text.find("\0")
    if at >= 0:
        raise UnreadableFileError("nul", f"character {at} is NUL, so this is not text")
    start = _long_line(text, config.max_line)
    if start is not None:
        found = f"a line of more than {config.max_line} characters, from character {start}"
        raise UnreadableFileError("long_line", found, limit=config.max_line)


def _long_line(text: str, limit: int) -> int | None:
    """Where a line of more than `limit` characters begins; None without one.

    Leaps from line end to line end, `limit` at most.
    """
    start = 0
    while len(text) - start > limit:
        stop = start + limit + 1
        end = max(text.rfind("\n", start, stop), text.rfind("\r", start, stop))
        if end < 0:
            return start
        start = end + 1
    return None
