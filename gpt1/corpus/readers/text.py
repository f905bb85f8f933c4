"""One text file's bytes, their encoding, and the checks that every text goes through.

The encoding is decided in this order: a byte order mark; NUL bytes in every other place (UTF-16
without a mark); UTF-8; and for what is none of those the fallback. `detect`: charset-normalizer
measures the bytes read as Windows-1252 and as Latin-1 (the share of improbable neighbours); where
neither looks like text, the file is refused. A reading that survives is Windows-1252 if a byte from
0x80 to 0x9F is there (in Latin-1 those are control characters, unused in texts), else Latin-1,
which then is the same text. Bytes that would be UTF-8 but for a few are damaged UTF-8 and are never
guessed at.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from hashlib import sha256

from gpt1.corpus.document import (
    Document,
    Place,
    ReadingConfig,
    TextOrigin,
    UnreadableFileError,
)

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE = re.compile(r"[^\r\n]+")
_HEAD = 1 << 16
_FEWEST = 0.05  # of the places in one half; English in UTF-16 has nearly all of them NUL
_MOST = 0.1  # NULs in the other half, as a share of those in the first
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f]")
_HIGH = re.compile(rb"[\x80-\x9f]")
_MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_BEYOND_ASCII = bytes(range(0x80, 0x100))


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
    limit = config.max_line
    lines = _LINE.finditer(text) if len(text) > limit else ()
    start = next((line.start() for line in lines if line.end() - line.start() > limit), None)
    if start is not None:
        found = f"a line of more than {limit} characters, from character {start}"
        raise UnreadableFileError("long_line", found, limit=limit)


# ---------------------------------------------------------------------------------------------
# Encodings


@dataclass(frozen=True)
class Decoded:
    """A text, the encoding it was read in, how that was decided, and how many bytes became
    U+FFFD.
    """

    text: str
    encoding: str
    how: str
    replaced: int = 0


def decode(data: bytes, fallback: str = "detect") -> Decoded:
    """The text of a file's bytes.

    `fallback`: `detect`, `none` (refuse), or an encoding. UnreadableFileError when it is no text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return Decoded(data[len(mark) :].decode(encoding), encoding, "byte order mark")
            except UnicodeDecodeError as error:
                found = f"byte {error.start} after the byte order mark is not {encoding}"
                raise UnreadableFileError("undecodable", found) from error
    at = data.find(b"\0")
    if at >= 0:
        return _without_mark(data, at)
    try:
        return Decoded(data.decode("utf-8"), "utf-8", "valid UTF-8")
    except UnicodeDecodeError as error:
        return _fallen_back(data, error.start, fallback)


def _without_mark(data: bytes, at: int) -> Decoded:
    """UTF-16 where NULs stand in one half of the places only and the text has no control
    characters.
    """
    head = data[:_HEAD]
    first, second = head[::2].count(0), head[1::2].count(0)
    for encoding, many, few in (("utf-16-le", second, first), ("utf-16-be", first, second)):
        if many >= _FEWEST * len(head) / 2 and few <= _MOST * many and len(data) % 2 == 0:
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                continue
            if not _CONTROLS.search(text):
                return Decoded(text, encoding, "NUL bytes in every other place")
    raise UnreadableFileError("nul", f"byte {at} is NUL, so this is not a text file")


def _fallen_back(data: bytes, at: int, fallback: str) -> Decoded:
    found, how = f"byte {at} (0x{data[at]:02x}) is not UTF-8", "the setting fallback_encoding"
    if fallback == "none":
        raise UnreadableFileError("invalid_utf8", found)
    if fallback == "detect":
        from charset_normalizer import from_bytes

        if _mostly_utf8(data):
            raise UnreadableFileError("invalid_utf8", f"{found}, but most other bytes are")
        if from_bytes(data, cp_isolation=["cp1252", "latin_1"]).best() is None:
            found += ", and it does not read as prose in Windows-1252 or Latin-1"
            raise UnreadableFileError("undecodable", found)
        is_latin = _HIGH.search(data) is None
        fallback = "latin-1" if is_latin else "windows-1252"
        how = f"detected: not UTF-8, {'no byte' if is_latin else 'bytes'} from 0x80 to 0x9f"
    # Windows-1252 leaves five byte values undefined: those become U+FFFD, which no word contains.
    text = data.decode(fallback, "replace")
    return Decoded(text, fallback, how, text.count("\ufffd"))


def _mostly_utf8(data: bytes) -> bool:
    """Whether more bytes beyond ASCII belong to whole UTF-8 sequences than not: then it is UTF-8
    with damage.
    """
    high, others = (
        len(some) - len(some.translate(None, _BEYOND_ASCII))
        for some in (data, _MULTIBYTE.sub(b"", data))
    )  # fmt: skip
    return high - others > others
