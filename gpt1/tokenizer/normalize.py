"""The first two steps from text to ids: ftfy, then OpenAI's `text_standardize`
(docs/explanation/tokenization.md).

`fix_text` is ftfy at the speed of a scan where ftfy has nothing to fix. ftfy 6.3 works on a text in
segments: its lines, each with its `\\n` (a line beyond a million characters is cut every million).
One thing passes from segment to segment: from the segment of the first `<` on, entities stay as
they are. So any run of complete lines may be fixed by itself, given that state. Most lines need
none of it, and these are recognized by their characters:

- Printable ASCII, tab, line feed and form feed pass unchanged, but for an entity (`&...;`).
- A carriage return and the curly quotes are exchanged one by one, whatever is beside them.
- The letters and signs in `_TAME` pass unchanged, if the line is not `ftfy.badness`'s mojibake.
  Each of its patterns needs two neighbors outside ASCII, or a C1 control, or one of `Â Ã Œ œ`. So
  a line is safe if no such pair is in it; pairs of quotes, dashes and ellipses, and a letter before
  a dash, an apostrophe or an ellipsis, are in no pattern (with `Î Ð Ø Ù` left out).

What else is met sends its line to ftfy. `tests/gpt1/tokenizer/` compares all code points and
hostile texts.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import ftfy
import numpy as np
import pyarrow as pa

NEWLINE = "\n"
Places = np.ndarray[Any, np.dtype[np.int32]]

# ftfy

# ftfy's `max_decode_length`.
_SEGMENT = 1_000_000
_COMMON = "’—–―…"
_CURLY = {**dict.fromkeys("‘’‚‛", "'"), **dict.fromkeys("“”„‟", '"')}
_QUOTES = "".join(_CURLY)
# Latin-1 and Latin Extended-A but for those that patterns take with an ASCII neighbor or with a
# common sign, and the ligatures.
_LETTERS = "".join(map(chr, [*range(0xA0, 0x100), *range(0x100, 0x180)]))
_TAME = "".join(sign for sign in _LETTERS if sign not in "ÂÃÎÐØÙŒœĲĳŉ") + "†‡•™€′″\ufffd"
_TAME_SIGNS = frozenset(_TAME + "Œœ")
_QUOTES_BUT_COMMON = frozenset(_QUOTES) - frozenset(_COMMON)
_FEW = 32
_ASCII = bytes([*b"\t\n\x0c", *range(0x20, 0x7F)])
_EXCHANGED = frozenset(_QUOTES + _COMMON + "\r")
_ENTITY = r"#?[0-9A-Za-z]{1,24};"
# One character that may be the start of something to fix, then, looking back at it, whether it is.
# (One leading class is what makes the search fast.)
_SUSPECT = re.compile(
    rf"[^\t\n\r\x0c -%'-~{_COMMON}]"
    rf"(?:(?<=[^&Œœ{_QUOTES}{re.escape(_TAME)}])"
    rf"|(?<=[{re.escape(_TAME)}])(?=[^\x00-\x7f{_COMMON}])"
    rf"|(?<=[{_QUOTES}])(?=[^\x00-\x7f{_COMMON}{_QUOTES}])"
    r"|(?<=[Œœ])(?![A-Za-z])"
    rf"|(?<=&){_ENTITY})"
)
_ANY_ENTITY = re.compile(f"&{_ENTITY}")


def fix_text(text: str) -> str:
    """What `ftfy.fix_text(text)` returns with ftfy's defaults, character for character: mojibake,
    entities, curly quotes and line ends fixed.

    The unit is the complete text. Line by line gives other results: after the first `<` of a text
    ftfy leaves entities as they are.
    """
    strange = set(
        text.encode("utf-8", "surrogatepass")
        .translate(None, _ASCII)
        .decode("utf-8", "surrogatepass")
    )
    entities = "&" in text and _ANY_ENTITY.search(text) is not None
    if not strange and not entities:
        return text
    if _has_long_line(text):
        return ftfy.fix_text(text)
    if entities or not _all_tame(text, strange - _EXCHANGED):
        return _by_lines(text, strange)
    return _exchange(text, strange)


def _all_tame(text: str, signs: set[str]) -> bool:
    """Whether no place of `signs` is a suspect: the same as a search for `_SUSPECT`, faster
    where the signs are few.
    """
    if len(signs) > _FEW or not signs <= _TAME_SIGNS:
        return False
    for sign in signs:
        at = text.find(sign)
        while at >= 0:
            before, after = text[at - 1 : at], text[at + 1 : at + 2]
            if not (after.isascii() or after in _COMMON) or before in _QUOTES_BUT_COMMON:
                return False
            if sign in "Œœ" and not (after.isascii() and after.isalpha()):
                return False
            at = text.find(sign, at + 1)
    return True


def _by_lines(text: str, strange: set[str]) -> str:
    """Runs of lines without a suspect are exchanged at once; lines with one go to ftfy, with the
    state they have in the whole text.
    """
    first_tag = text.find("<")
    parts: list[str] = []
    done = 0
    while suspect := _SUSPECT.search(text, done):
        start = text.rfind("\n", done, suspect.start()) + 1 or done
        end = text.find("\n", suspect.start()) + 1 or len(text)
        entities: Literal["auto", False] = False if 0 <= first_tag < start else "auto"
        parts += (
            _exchange(text[done:start], strange),
            ftfy.fix_text(text[start:end], unescape_html=entities),
        )
        done = end
    parts.append(_exchange(text[done:], strange))
    return "".join(parts)


def _exchange(text: str, strange: set[str]) -> str:
    """Line ends and curly quotes made plain.

    `strange` has at least the characters of `text` outside plain ASCII.
    """
    if "\r" in strange:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    for curly, straight in _CURLY.items():
        if curly in strange:
            text = text.replace(curly, straight)
    return text


def _has_long_line(text: str) -> bool:
    """Whether ftfy would cut a line, where a carriage return could be parted from its line feed."""
    done = 0
    while len(text) - done > _SEGMENT:
        end = text.rfind("\n", done, done + _SEGMENT)
        if end < 0:
            return True
        done = end + 1
    return False


# OpenAI's text_standardize

# A run of any ONE of these characters gets a space on either side. The backslash is not among them:
# in OpenAI's code its branch is dead, because the pattern there is no raw string.
_SET_APART = re.compile(r"""([-~!";?+,)(/*\[\]}{|_])\1*""")
_PLAIN = (("—", "-"), ("–", "-"), ("―", "-"), ("…", "..."), ("´", "'"))
_AROUND_NEWLINE = re.compile(r"\s*\n\s*")
# Runs of white space without a newline, but for the single space, which stays what it is.
_OTHER_SPACE = re.compile(r"[^\S\n ][^\S\n]*| [^\S\n]+")
# `\s` of the regexes, `str.split` and spaCy all ask Python for `isspace`: one set, but for space
# and line feed.
_SPACES = tuple(
    character
    for character in map(chr, range(sys.maxunicode + 1))
    if character.isspace() and character not in " \n"
)
LONGEST = 1_000
"""Characters of a segment; a longer one is cut. spaCy's time grows with the square of the length,
and no honest word has as many.
"""
_SHORT = 4_000
"""Bytes of a text for which arrays would cost more than they save."""
_TOO_LONG = re.compile(rf"\S{{{LONGEST}}}(?=\S)")


def standardize(text: str) -> str:
    """Dashes, ellipses and accents made plain, punctuation set apart, white space collapsed to `
    \\n ` and single spaces; what is longer than LONGEST is cut.
    """
    text = _AROUND_NEWLINE.sub(" \n ", _set_apart(_plain(text)))
    return _cut(_OTHER_SPACE.sub(" ", text).strip())


def separate(chunks: Sequence[str]) -> list[str]:
    """Each chunk (not empty, no line break) with `standardize`'s spaces between its segments."""
    return _cut(_set_apart(NEWLINE.join(chunks))).split(NEWLINE)


def _set_apart(text: str) -> str:
    return _SET_APART.sub(lambda run: f" {run.group()} ", text)


def _cut(text: str) -> str:
    return _TOO_LONG.sub(lambda part: f"{part.group()} ", text)


def _plain(text: str) -> str:
    for fancy, plain in _PLAIN:
        if fancy in text:
            text = text.replace(fancy, plain)
    return text


def split_chunks(text: str) -> tuple[list[bytes], Places | None]:
    """The different chunks of a fixed text, each as UTF-8 (lone surrogates encoded like other code
    points), and the number of the chunk in each place (n,). Of a short text, all chunks in order,
    and None.

    A chunk is the text between white space, a line break, or nothing (between neighboring
    separators). This is `standardize` but for two things, left to the caller: chunks are still to
    be `separate`d, each by itself, since no run of one character spans white space; and
    several line breaks are to be one, with none at the start or the end.
    """
    text = _plain(text)
    for space in _SPACES:
        if space in text:
            text = text.replace(space, " ")
    data = (text.replace(NEWLINE, " \n ") + " ").encode("utf-8", "surrogatepass")
    if len(data) < _SHORT:
        return data.split(b" ")[:-1], None
    # Arrow's dictionary and not `str.split` with one of Python: a few objects for a text, not one
    # for each place.
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(" ")) + 1
    offsets = pa.py_buffer(np.concatenate([[0], ends]))
    buffers = [None, offsets, pa.py_buffer(data)]
    encoded = pa.Array.from_buffers(pa.large_binary(), len(ends), buffers).dictionary_encode()
    # Not `to_numpy`, which would import pandas.
    places = np.frombuffer(encoded.indices.buffers()[1], np.int32, len(ends))
    # Each chunk ends with its space, so their bytes, one after another, can be split there.
    return encoded.dictionary.buffers()[2].to_pybytes().split(b" ")[:-1], places


def blocks(text: str, size: int = 1 << 20) -> Iterator[str]:
    """`text` in pieces of about `size` characters that end with a line break (the last as the
    text ends); a longer line is a piece.
    """
    start = 0
    while start < len(text):
        end = len(text)
        if end - start > size:
            end = (
                (text.rfind(NEWLINE, start, start + size) + 1)
                or (text.find(NEWLINE, start + size) + 1)
                or end
            )
        yield text[start:end]
        start = end
