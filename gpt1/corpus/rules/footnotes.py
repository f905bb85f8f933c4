"""Footnotes: their marks in the text, and the notes themselves, which interrupt the sentence
they stand in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, chained, edited

_LABEL = r"\d{1,4}|[A-Z]|[*†‡§]"
_INLINE = re.compile(r"\[(?:Footnote|FOOTNOTE|footnote)\b(?:[^\[\]]|\[[^\[\]]{0,300}\]){0,4000}\]")
_MARK = re.compile(rf"\[({_LABEL})\]")
_NOTE = re.compile(rf"(?:\n[ \t]*){{2}}\[({_LABEL})\][ \t]*[^\n]+(?:\n[ \t]*\S[^\n]*)*")
_BRACE = re.compile(r"\{(\d{1,4}[a-z]?)\}")
_BRACE_NOTE = re.compile(r"(?:\n[ \t]*){2}\{(\d{1,4}[a-z]?)\}[ \t]*[^\n]+(?:\n[ \t]*\S[^\n]*)*")
_HEADING = re.compile(r"\n[ \t]*(?:FOOTNOTES?|Footnotes?)[:.]?[ \t]*(?=\n|\Z)")


def remove_footnotes(text: str) -> Applied:
    """`[Footnote 1: …]` goes.

    `[1]` goes where it is joined to a word, and then so do paragraphs that begin with the same
    mark.
    """
    if "[" not in text:
        return _braces(text) if "{" in text else Applied(text)
    marks = {found[1] for found in _joined(text)}
    return chained(text, _inline, lambda text: _notes(text, marks), _marks, _braces)


def _braces(text: str) -> Applied:
    """Paragraphs that begin with a mark such as `{6}` which the text also has elsewhere: a
    page's number stands but once.
    """
    seen = Counter(_BRACE.findall(text))
    return edited(
        text,
        (
            Edit(note.start(), note.end())
            for note in _BRACE_NOTE.finditer(text)
            if seen[note[1]] > 1
        ),
    )


def _inline(text: str) -> Applied:
    return edited(text, (Edit(found.start(), found.end()) for found in _INLINE.finditer(text)))


def _notes(text: str, marks: set[str]) -> Applied:
    if not marks:
        return Applied(text)
    edits = [
        Edit(found.start(), found.end()) for found in _NOTE.finditer(text) if found[1] in marks
    ]
    return edited(
        text, sorted([*edits, *_headings(text)], key=lambda edit: edit.start) if edits else []
    )


def _headings(text: str) -> Iterator[Edit]:
    return (Edit(found.start(), found.end()) for found in _HEADING.finditer(text))


def _marks(text: str) -> Applied:
    return edited(text, (Edit(found.start(), found.end()) for found in _joined(text)))


def _joined(text: str) -> Iterator[re.Match[str]]:
    """Marks joined to the word before them, or to its stop."""
    return (
        found
        for found in _MARK.finditer(text)
        if found.start() and not text[found.start() - 1].isspace()
    )


RULE = TextRule(
    "footnotes",
    "Footnote marks such as `[1]`, `[Footnote: …]` and the notes they point to are removed.",
    remove_footnotes,
)
