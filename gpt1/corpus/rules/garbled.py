"""Texts that are mostly no prose: leftovers of markup, tables of figures, scanning gone wrong,
binary data.
"""

from __future__ import annotations

import re

from gpt1.corpus.rules.not_english import spread
from gpt1.corpus.rules.rule import BookRule

_LETTERS = re.compile(r"[^\W\d_]")
_VISIBLE = re.compile(r"\S")
_BROKEN = re.compile(r"[\ufffd\x00-\x08\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]")
_LETTER_SHARE = 0.7
_BROKEN_SHARE = 0.02
_SHORTEST, _LONGEST = 2.5, 9.0
_FEWEST = 200


def judge(text: str, on: bool) -> str | None:
    """By the share of letters among the visible characters, of broken characters, and by the
    words' mean length.
    """
    if not on:
        return None
    sample = spread(text)
    visible = len(_VISIBLE.findall(sample))
    if visible < _FEWEST:
        return None
    letters = len(_LETTERS.findall(sample))
    if letters / visible < _LETTER_SHARE:
        return (
            f"{letters / visible:.0%} of the visible characters are letters; at least"
            f" {_LETTER_SHARE:.0%} wanted"
        )
    broken = len(_BROKEN.findall(sample))
    if broken / visible > _BROKEN_SHARE:
        return (
            f"{broken / visible:.1%} of the visible characters are broken; at most"
            f" {_BROKEN_SHARE:.1%} wanted"
        )
    mean = visible / len(sample.split())
    if not _SHORTEST <= mean <= _LONGEST:
        return (
            f"words of {mean:.1f} visible characters on average; {_SHORTEST} to {_LONGEST} wanted"
        )
    return None


RULE = BookRule(
    "garbled", "Books with few letters, many broken characters or implausible words are rejected.",
    "garbled", True, judge, sentences=True,
)
