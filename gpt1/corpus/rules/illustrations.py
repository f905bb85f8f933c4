"""Marks of illustrations."""

from __future__ import annotations

import re

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited

# Up to one pair of brackets inside; bounded, so that marks never closed cost little each.
_MARK = re.compile(
    r"\[(?:[Ii]llustrations?|ILLUSTRATIONS?|[Ff]rontispiece|Picture|Decoration)\b(?:[^\[\]]|\[[^\[\]]{0,200}\]){0,1500}\]"
)


def remove_illustrations(text: str) -> Applied:
    """`[Illustration]`, `[Illustration: caption]` over several lines, `[Frontispiece: …]`."""
    return edited(text, (Edit(found.start(), found.end()) for found in _MARK.finditer(text)))


RULE = TextRule(
    "illustrations", "`[Illustration: …]` and the like are removed, captions included.",
    remove_illustrations,
)
