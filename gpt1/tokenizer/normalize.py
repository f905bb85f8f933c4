"""The first two steps from text to ids: ftfy, then the standardizing of OpenAI's code
(docs/explanation/tokenization.md).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from gpt1.tokenizer.mending import mend

NEWLINE = "\n"
# A run of any ONE of these characters gets a space on either side. The backslash is not among them:
# in OpenAI's code its branch is dead, because the pattern there is no raw string.
_PADDED = re.compile(r"""([-~!";?+,)(/*\[\]}{|_])\1*""")
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


def fix(text: str) -> str:
    """Mend mojibake, entities, quotes and line ends: exactly `ftfy.fix_text(text)`, with ftfy's
    defaults.

    The granularity is the whole text. Line by line gives other results: `unescape_html="auto"`
    switches itself off for all that follows the first `<`.
    """
    return mend(text)


def standardize(text: str) -> str:
    """Dashes, ellipses and accents made plain, punctuation set apart, white space collapsed to `
    \\n ` and single spaces.
    """
    text = padded(_plain(text))
    text = _AROUND_NEWLINE.sub(" \n ", text)
    return _OTHER_SPACE.sub(" ", text).strip()


def padded(text: str) -> str:
    """`text` with a space on either side of each run of one punctuation character."""
    return _PADDED.sub(lambda run: f" {run.group()} ", text)


def _plain(text: str) -> str:
    for fancy, plain in _PLAIN:
        if fancy in text:
            text = text.replace(fancy, plain)
    return text


def chunks(text: str) -> list[str]:
    """A fixed text cut at white space: chunks, a `\\n` for each line break, and empty strings
    between neighbouring separators.

    It is `standardize` but for two things, left to the caller. Chunks are still to be `padded`,
    each by itself: no run of one character spans white space. And line breaks are as in the text:
    several are to be one, and none leads or trails.
    """
    text = _plain(text)
    for space in _SPACES:
        if space in text:
            text = text.replace(space, " ")
    return text.replace(NEWLINE, " \n ").split(" ")


def blocks(text: str, size: int = 1 << 13) -> Iterator[str]:
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
