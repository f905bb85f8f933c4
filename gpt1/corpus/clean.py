"""One book cleaned: line ends, ftfy, boilerplate, hard line wraps; each rule counted."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from gpt1.corpus.boilerplate import remove_boilerplate
from gpt1.corpus.book import Book
from gpt1.corpus.join_lines import join_lines
from gpt1.text.normalise import fix

_LINE_END = re.compile(r"\r+\n|\r")
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n?")


@dataclass(frozen=True)
class CleaningRules:
    """Which rules apply. `boilerplate` off and `join_lines` off keep the text that SPEC section 2 would see."""

    boilerplate: bool = True
    join_lines: bool = True
    minimum_words: int = 200


@dataclass(frozen=True)
class Cleaned:
    """A book after cleaning: what each rule did to it, and why it is rejected if it is."""

    book: Book
    words_before: int
    words: int
    counts: dict[str, int]
    rejected: str | None = None
    evidence: str | None = None


def clean(book: Book, rules: CleaningRules) -> Cleaned:
    """Apply the rules to the whole text of a book, in a fixed order.

    Line ends come before ftfy, which would turn the `\\r\\r\\n` of some files into two line breaks. ftfy sees the whole text; line
    by line differs (see `gpt1.text.normalise.fix`).
    """
    counts: Counter[str] = Counter()
    text, counts["line_ends"] = _LINE_END.subn("\n", book.text)
    fixed = fix(text)
    counts["ftfy"] = sum(old != new for old, new in zip(text.split("\n"), fixed.split("\n"), strict=False))
    text = fixed
    if rules.boilerplate:
        text, removed = remove_boilerplate(text)
        counts.update(removed)
    if rules.join_lines:
        text, counts["lines_joined"] = join_lines(text)
        text = _BLANK_LINES.sub("\n\n", text).strip()
    words = len(text.split())
    cleaned = Cleaned(replace(book, text=text), len(book.text.split()), words, dict(sorted((+counts).items())))
    if words >= max(1, rules.minimum_words):
        return cleaned
    return replace(cleaned, rejected="too_short", evidence=f"{words} words; at least {rules.minimum_words} wanted")
