"""A block of `Title: …`, `Author: …` lines at the very start."""

from __future__ import annotations

import re

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited

_BLOCK = re.compile(
    r"\A\s*+(?:\#{0,6}[ \t]*(?:Title|Author|Year|Translator|Editor|Illustrator|Language|Release"
    r" Date|Posting Date|Last Updated"
    r"|Character set encoding|Credits|Publisher|Publication date)["
    r" \t]*:[^\n]{0,300}(?:\n\s*+|\Z)){2,20}(?:-{3,}[ \t]*\n)?"
)


def remove_title_block(text: str) -> Applied:
    """Two lines or more of the form `Key: value` at the very start, with a line of dashes under
    them.
    """
    found = _BLOCK.match(text[:10_000])
    return edited(text, [Edit(0, found.end())] if found else [])


RULE = TextRule(
    "title_block", "Lines such as `Title: …` and `Author: …` at the very start are removed.",
    remove_title_block,
)
