"""Rows of asterisks and dashes: one form for all."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited

_ROW = r"[ \t]{0,60}(?:\*(?:[ \t]{0,12}\*){1,19}|(?:[-_=~•#][ \t]{0,3}){5,80})[ \t]{0,20}"
_BREAKS = re.compile(rf"\n{_ROW}(?:\n\s{{0,200}}{_ROW})*(?=\n|\Z)")
SIGN = "* * *"
_PAGE = 40


def unify_scene_breaks(text: str) -> Applied:
    """Each row, or several in succession, becomes a line `* * *`: the break tells where a scene
    ends, its looks tell nothing.

    A line of forty dashes or more is a printed page's end and goes; so does a row with no text
    before or after it.
    """
    return edited(text, (edit for edit in _edits(text) if text[edit.start : edit.end] != edit.new))


def _edits(text: str) -> Iterator[Edit]:
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    for row in _BREAKS.finditer(text):
        page = "*" not in row.group() and row.group().count("-") >= _PAGE
        edge = row.start() <= begin or row.end() >= end
        yield Edit(row.start(), row.end(), "\n" if page or edge else f"\n{SIGN}")


RULE = TextRule(
    "scene_breaks",
    "Rows of asterisks, dashes or the like become `* * *`, which marks the end of a scene.",
    unify_scene_breaks,
)
