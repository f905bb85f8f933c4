"""Page numbers of the printed book inside the text."""

from __future__ import annotations

import re

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited

_MARK = re.compile(
    r"\[[Pp](?:g|age|\.)\.? ?(?:\d{1,4}|[ivxlc]{1,8})\]|\{(?:[Pp](?:g|age|\.)?\.?"
    r" ?)?(?:\d{1,4}[a-z]?|[ivxlc]{1,8})\}"
)


def remove_page_marks(text: str) -> Applied:
    """`[Pg 12]`, `[Page 12]`, `{12}`, `{p.

    12}`. A number alone on a line stays: it may be a chapter's.
    """
    if "[P" not in text and "[p" not in text and "{" not in text:
        return Applied(text)
    return edited(text, (Edit(found.start(), found.end()) for found in _MARK.finditer(text)))


RULE = TextRule(
    "page_marks", "Page numbers in brackets or braces, `[Pg 12]` and `{12}`, are removed.",
    remove_page_marks,
)
