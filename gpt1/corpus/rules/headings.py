"""Markdown's number signs before headings."""

from __future__ import annotations

import re

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited

_HEADING = re.compile(r"\n#{1,6}[ \t]+(?=\S)")


def strip_heading_signs(text: str) -> Applied:
    """`## II` at a line's start becomes `II`."""
    edits = [Edit(found.start() + 1, found.end()) for found in _HEADING.finditer(text)]
    if first := re.match(r"#{1,6}[ \t]+(?=\S)", text):
        edits.insert(0, Edit(0, first.end()))
    return edited(text, edits)


RULE = TextRule(
    "headings", "Markdown's `#` before a heading is removed; the heading stays.",
    strip_heading_signs,
)
