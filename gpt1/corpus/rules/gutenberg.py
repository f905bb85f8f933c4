"""Project Gutenberg's header, footer and license."""

from __future__ import annotations

import re

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited

REACH = 30_000
"""How far from either end, in characters, a header or footer may lie: with the whole licence
they run to some 20,000.
"""

_OF = r" ?OF (?:THE |THIS )?(?:COPYRIGHTED )?PROJE[CK]T GUTENBERG"
_FLAGS = re.MULTILINE | re.IGNORECASE
_START = re.compile(
    rf"^[ \t]*\*+ ?START{_OF}(?:[^\n*]*(?:\n[^\n*]+){{0,3}}\*\*\*[^\n]*\n|[^\n]*\n)", _FLAGS
)
"""The line, or up to four where the title is long, after which the book begins."""
_SMALL_PRINT = re.compile(r"^[ \t]*\*+ ?START\*+ ?THE SMALL PRINT", _FLAGS)
_SMALL_PRINT_END = re.compile(r"^[ \t]*\*+ ?END[ *]*THE SMALL PRINT[^\n]*\n?", _FLAGS)
"""The licence of etexts before 2004: in the header of most, in the footer of those of 2001 to
2004.
"""
_END = re.compile(
    rf"^[ \t]*(?:\*+ ?END{_OF}|End{_OF}|Ende (?:dieses |des )?Proje[ck]t Gutenberg|Fin (?:de |du"
    r" )?Project Gutenberg)",
    _FLAGS,
)
"""The line with which the footer begins."""
_AFTER_FOOTER = 1_000
"""Most characters that follow a small print that is a footer."""


def remove_gutenberg(text: str) -> Applied:
    """The text between the header and the footer; a strike for each of the two.

    The markers have an order: header with or without the small print, START OF, the book, END OF,
    footer with or without the small print. Before 2001 there is neither START OF nor END OF, and
    the small print ends the header.
    """
    start = _START.search(text, 0, REACH)
    begin = start.end() if start else 0
    end = _footer(text, begin)
    for small_print in _SMALL_PRINT_END.finditer(text, begin, REACH):
        if small_print.end() <= end:
            begin = small_print.end()
    edits = [Edit(0, begin)] if begin else []
    if end < len(text):
        edits.append(Edit(end, len(text)))
    return edited(text, edits)


def _footer(text: str, begin: int) -> int:
    """Where the footer of a book that begins at `begin` begins; the text's length where there is
    none.
    """
    tail = max(begin, len(text) - REACH)
    starts = [found.start() for found in _END.finditer(text, tail)]
    small_print = _SMALL_PRINT.search(text, tail)
    if small_print and (closed := _SMALL_PRINT_END.search(text, small_print.end())):
        starts += (
            [small_print.start()] if len(text[closed.end() :].strip()) <= _AFTER_FOOTER else []
        )
    # A book shorter than the reach could have its footer's words in a header left in place: a
    # footer has text before it.
    return min((at for at in starts if text[begin:at].strip()), default=len(text))


RULE = TextRule(
    "gutenberg", "Project Gutenberg's header, footer and license are removed.", remove_gutenberg
)
