"""What transcribers say of themselves and of their work."""

from __future__ import annotations

import re

from gpt1.corpus.rules.gutenberg import REACH
from gpt1.corpus.rules.rule import Applied, Edit, TextRule, chained, edited
from gpt1.corpus.rules.tables import drawn_blocks

# Paragraphs of their own that name somebody: the same words occur inside sentences.
_CREDITS = re.compile(
    r"(?:\A\s*+|(?<=\n)[ \t]*\n[ \t]*)[\[(]?"
    r"(?:(?:This (?:e-?[Tt]ext|e-?[Bb]ook|file) was )?"
    r"(?:[Pp]roduced|[Pp]repared|[Tt]ranscribed|[Ss]canned(?: and proofed)?|[Pp]roofread)"
    r"|E-?[Tt]ext (?:prepared|produced|scanned)|HTML version"
    r" (?:created|prepared|produced)|Transcribed (?:and edited )?from)"
    r"(?: by|(?<=from)) (?:the |an? )?(?:[A-Z]|\d{4}\b)[^\n]*(?:\n[ \t]*\S[^\n]*){0,8}(?=\n["
    r" \t]*\n|\s*\Z)"
)
_IMAGES = re.compile(
    r"(?<=\n)[ \t]*\n[ \t]*(?:\[?Note: (?:Images of|Project Gutenberg|This)|\(?This (?:file|book)"
    r" was produced from"
    r"|\(?Images? generously|Images of the original pages)[^\n]*(?:\n[ \t]*\S[^\n]*){0,8}"
    r"(?:\n[ \t]*\n[ \t]*(?:See\s+)?https?://[^\n]*(?:\n[ \t]*\S[^\n]*){0,3})?(?=\n[ \t]*\n|\s*\Z)"
)
_BRACKETED = re.compile(
    r"\[(?:Transcriber|TRANSCRIBER|transcriber|[Ee]ditorial note:"
    r" italics)(?:[^\[\]]|\[[^\[\]]{0,300}\]){0,3000}\]"
)
_NOTE = re.compile(
    r"^[ \t]*[\[(*_=]{0,3}(?:TRANSCRI(?:BER|PTION)(?:'?S'?)? NOTES?|Transcri(?:ber|ption)(?:'?s'?)?"
    r" [Nn]otes?)\b",
    re.MULTILINE,
)
_GAP = re.compile(r"\n[ \t]*\n[ \t]*\n[ \t]*\n")
_LONGEST_NOTE = 4_000
_LAST = 25_000


def remove_credits(text: str) -> Applied:
    """Paragraphs "Produced by …" near the head, and transcribers' notes: in brackets, in boxes,
    at the head, at the end.
    """
    return chained(text, _boxes, _bracketed, _paragraphs, _note_at_head, _note_at_end)


def _boxes(text: str) -> Applied:
    if "|" not in text or "ranscriber" not in text:
        return Applied(text)
    found = (
        Edit(start, end)
        for start, end in drawn_blocks(text)
        if re.search("transcriber", text[start:end], re.IGNORECASE)
    )
    return edited(text, found)


def _bracketed(text: str) -> Applied:
    return edited(text, (Edit(found.start(), found.end()) for found in _BRACKETED.finditer(text)))


def _paragraphs(text: str) -> Applied:
    head = chained(
        text[:REACH], *(lambda part, rule=rule: _cut(part, rule) for rule in (_CREDITS, _IMAGES))
    )
    return Applied(head.text + text[REACH:], head.strikes, head.change, head.places)


def _cut(text: str, pattern: re.Pattern[str]) -> Applied:
    return edited(text, (Edit(found.start(), found.end()) for found in pattern.finditer(text)))


def _note_at_head(text: str) -> Applied:
    """From the heading to a gap of three lines; without one within reach the note's own
    paragraph and the next.
    """
    found = _NOTE.search(text, 0, REACH // 3)
    if found is None or len(text) - found.start() <= _LAST:
        return Applied(text)
    gap = _GAP.search(text, found.end(), found.end() + _LONGEST_NOTE)
    if gap is None:
        blank = [
            match.end()
            for match in re.compile(r"\n[ \t]*\n").finditer(
                text, found.end(), found.end() + _LONGEST_NOTE
            )
        ]
        return edited(text, [Edit(found.start(), blank[min(1, len(blank) - 1)])] if blank else [])
    return edited(text, [Edit(found.start(), gap.start())])


def _note_at_end(text: str) -> Applied:
    """From the heading to the text's end, when that is a short way."""
    found = _NOTE.search(text, max(len(text) // 2, len(text) - _LAST))
    return edited(text, [Edit(found.start(), len(text))] if found else [])


RULE = TextRule("credits", "`Produced by …` and transcribers' notes are removed.", remove_credits)
