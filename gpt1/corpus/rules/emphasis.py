"""Emphasis written with underscores, asterisks, equals signs or tildes: the words stay, the
signs go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, chained, edited

# A stretch within one paragraph, without the sign itself: each sign is looked at from the last one
# only, so the time is linear.
_INSIDE = r"(?=[^\s{0}])(?:[^{0}\n]|\n(?![ \t]*\n)){{1,{1}}}(?<=\S)"
_SIGNS = (
    # The sign first: a pattern that begins with a letter of its own is searched for at the speed of
    # memory.
    re.compile(r"_(?<![^\W\d]_)(?<!__)" + _INSIDE.format("_", 1500) + r"_(?!_)"),
    re.compile(r"=(?<![\w=]=)" + _INSIDE.format("=", 200) + r"=(?![\w=])"),
    re.compile(r"~(?<![\w~]~)" + _INSIDE.format("~", 200) + r"~(?![\w~])"),
)
_STARS = re.compile(
    r"\*(?<![\w*]\*)(\*{0,2})(?![,;:.!?)\]])" + _INSIDE.format("*", 500) + r"\*\1(?![\w*])"
)


def strip_emphasis(text: str) -> Applied:
    """`_word_`, `_several words_` (over a line's end too), `=bold=`, `~spaced~`, `*word*`,
    `**word**` lose their signs.

    Single signs, `snake_case`, blanks such as `____` and rows of asterisks stay.
    """
    steps = [
        step
        for sign, step in (("_", _under), ("=", _equals), ("~", _tilde), ("*", _stars))
        if sign in text
    ]
    return chained(text, *steps)


def _pairs(text: str, pattern: re.Pattern[str], width: int = 1) -> Iterator[Edit]:
    for found in pattern.finditer(text):
        yield Edit(found.start(), found.end(), text[found.start() + width : found.end() - width])


def _under(text: str) -> Applied:
    return edited(text, _pairs(text, _SIGNS[0]))


def _equals(text: str) -> Applied:
    return edited(text, _pairs(text, _SIGNS[1]))


def _tilde(text: str) -> Applied:
    return edited(text, _pairs(text, _SIGNS[2]))


def _stars(text: str) -> Applied:
    found = _STARS.finditer(text)
    return edited(
        text,
        (
            Edit(m.start(), m.end(), text[m.start() + 1 + len(m[1]) : m.end() - 1 - len(m[1])])
            for m in found
        ),
    )


RULE = TextRule(
    "emphasis", "`_word_`, `*word*`, `=word=` and `~word~` lose their markers; the words stay.",
    strip_emphasis, sentences=True,
)
