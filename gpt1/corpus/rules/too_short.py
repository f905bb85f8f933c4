"""Books with too few words."""

from __future__ import annotations

from gpt1.corpus.rules.rule import BookRule


def judge(text: str, minimum: int) -> str | None:
    """Words between white space, after cleaning."""
    words = len(text.split(None, minimum))  # no further than needed
    return f"{words} words; at least {minimum} wanted" if words < minimum else None


RULE = BookRule(
    "too_short", "Reject a book with fewer words after cleaning; 0 keeps all.",
    "minimum_words", 200, judge, {"ge": 0, "le": 1_000_000},
)
