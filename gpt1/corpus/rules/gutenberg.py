"""Project Gutenberg's header, footer and licence."""

from __future__ import annotations

import re

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited

REACH = 30_000
"""How far from either end, in characters, a header or footer may lie: with the whole licence they run to some 20,000."""

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


def remove_gutenberg(text: str) -> Applied:
    """The text between the header and the footer; a strike for each of the two."""
    edits = []
    ends = [found.end() for header in _HEADERS if (found := header.search(text, 0, REACH))]
    begin = max(ends, default=0)
    if begin:
        edits.append(Edit(0, begin))
    starts = [found.start() for footer in _FOOTERS if (found := footer.search(text, max(begin, len(text) - REACH)))]
    # A book shorter than the reach could have its footer's words in a header left in place: a footer has text before it.
    starts = [start for start in starts if text[begin:start].strip()]
    if starts:
        edits.append(Edit(min(starts), len(text)))
    return edited(text, edits)


RULE = TextRule("gutenberg", "Project Gutenberg's header, footer and licence are removed.", remove_gutenberg)
