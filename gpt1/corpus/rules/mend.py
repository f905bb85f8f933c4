"""Mojibake, entities, curly quotes and ligatures mended by ftfy."""

from __future__ import annotations

from gpt1.corpus.rules.rule import Applied, TextRule
from gpt1.corpus.text_stats import Size

_PLACES = 16


def mend(text: str) -> Applied:
    """ftfy with its defaults over the whole text at once; a strike is a line that came out
    different.

    Line by line differs: after the first `<` of a text ftfy leaves HTML entities alone.
    """
    from gpt1.tokenizer.normalize import fix_text

    fixed = fix_text(text)
    if fixed == text:
        return Applied(text)
    pairs = [
        (old, new)
        for old, new in zip(text.split("\n"), fixed.split("\n"), strict=False)
        if old != new
    ]
    stride = max(1, len(pairs) // _PLACES)
    return Applied(fixed, max(1, len(pairs)), Size.of(fixed) - Size.of(text), pairs[::stride])


RULE = TextRule(
    "ftfy",
    "ftfy fixes mojibake, entities, quotes and ligatures over the complete text, not line by line.",
    mend,
    sentences=True,
)
