"""Line ends of every system become one newline."""

from __future__ import annotations

import re

from gpt1.corpus.rules.rule import Applied, TextRule
from gpt1.corpus.text_stats import Size

# ftfy would turn the `\r\r\n` of some files into two line breaks, so this comes before it. A run
# has one match: linear time.
_LINE_END = re.compile(r"\r+\n?")


def unify_line_ends(text: str) -> Applied:
    """`\\r\\n`, `\\r\\r\\n` and runs of `\\r` become `\\n`."""
    if "\r" not in text:
        return Applied(text)
    done, strikes = _LINE_END.subn("\n", text)
    at = text.index("\r")
    place = text[max(0, at - 30) : at + 30]
    return Applied(
        done, strikes, Size.of(done) - Size.of(text), [(place, _LINE_END.sub("\n", place))]
    )


RULE = TextRule(
    "line_ends", "Windows and old Macintosh line ends become one newline.", unify_line_ends,
    sentences=True,
)
