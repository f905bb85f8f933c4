"""Tables and boxes drawn with `|` and `+---+`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited

BORDER = re.compile(
    r"\s*\+(?:[-=]|[ \t]*\+){4,}\s*"
)  # each character in one way only, so in linear time
_FEWEST = 3


def remove_tables(text: str) -> Applied:
    """Three or more lines together with columns between bars go; a box of one column loses its
    frame and keeps its words.
    """
    if "|" not in text:
        return Applied(text)
    return edited(text, _edits(text))


def _edits(text: str) -> Iterator[Edit]:
    for start, end in drawn_blocks(text):
        lines = text[start:end].split("\n")
        inside = [line.strip() for line in lines if not BORDER.fullmatch(line)]
        framed = all(
            line.startswith("|") and line.endswith("|") and line.count("|") <= 2 for line in inside
        )
        yield Edit(start, end, "\n".join(line.strip("| \t") for line in inside) if framed else "")


def drawn_blocks(text: str) -> Iterator[tuple[int, int]]:
    """Stretches of at least three lines in succession, each with two bars or a border."""
    at = begin = end = 0
    lines = 0
    for line in text.split("\n"):
        if line.count("|") >= 2 or (line.count("+") >= 2 and BORDER.fullmatch(line)):
            if not lines:
                begin = at
            lines, end = lines + 1, at + len(line)
        else:
            if lines >= _FEWEST:
                yield begin, end
            lines = 0
        at += len(line) + 1
    if lines >= _FEWEST:
        yield begin, end


RULE = TextRule(
    "tables", "Tables drawn with bars are removed; a box of one column loses its frame.",
    remove_tables,
)
