"""What Project Gutenberg and its volunteers put around and into a book."""

from __future__ import annotations

import re
from collections import Counter

# How far from either end a header or footer may lie: headers with the whole licence run to some 20,000 characters.
_REACH = 30_000

_HEADERS = (
    re.compile(
        r"^[ \t]*\*\*\* ?START OF (?:THE |THIS )?PROJECT GUTENBERG[^\n*]*(?:\n[^\n*]+){0,3}\*\*\*[^\n]*\n",
        re.MULTILINE | re.IGNORECASE,
    ),
    re.compile(r"^[ \t]*\*+ ?START OF (?:THE |THIS )?PROJECT GUTENBERG[^\n]*\n", re.MULTILINE | re.IGNORECASE),
    re.compile(r"^[ \t]*\*END[ *]*THE SMALL PRINT[^\n]*\n", re.MULTILINE | re.IGNORECASE),
)
_FOOTERS = (
    re.compile(r"^[ \t]*\*+ ?END OF (?:THE |THIS )?PROJECT GUTENBERG", re.MULTILINE | re.IGNORECASE),
    re.compile(r"^[ \t]*End of (?:the |this )?Project Gutenberg", re.MULTILINE | re.IGNORECASE),
)
# A paragraph of its own that names somebody: the same words occur inside sentences.
_CREDITS = re.compile(
    r"(?:\A\s*|(?<=\n)[ \t]*\n)[ \t]*"
    r"(?:Produced by|E-?[Tt]ext prepared by|Transcribed (?:from|by)|This e-?text was (?:prepared|produced) by)"
    r" [A-Z][^\n]*(?:\n[ \t]*\S[^\n]*){0,5}(?=\n[ \t]*\n|\Z)"
)
_ILLUSTRATION = re.compile(r"\[Illustrations?\b[^\[\]]{0,600}\]", re.IGNORECASE)


def remove_boilerplate(text: str) -> tuple[str, Counter[str]]:
    """The text without headers, footers, credits of transcribers, and `[Illustration …]`; and how often each rule struck."""
    counts: Counter[str] = Counter()
    text, counts["gutenberg_header"] = _after_header(text)
    text, counts["gutenberg_footer"] = _before_footer(text)
    head, counts["credits"] = _CREDITS.subn("", text[:_REACH])
    text = head + text[_REACH:]
    text, counts["illustration"] = _ILLUSTRATION.subn("", text)
    return text, +counts


def _after_header(text: str) -> tuple[str, int]:
    ends = [found.end() for header in _HEADERS if (found := header.search(text, 0, _REACH))]
    return (text[max(ends) :], 1) if ends else (text, 0)


def _before_footer(text: str) -> tuple[str, int]:
    starts = [found.start() for footer in _FOOTERS if (found := footer.search(text, max(0, len(text) - _REACH)))]
    # A book shorter than the reach could have its footer's words in a header left in place: a footer has text before it.
    starts = [start for start in starts if text[:start].strip()]
    return (text[: min(starts)], 1) if starts else (text, 0)
