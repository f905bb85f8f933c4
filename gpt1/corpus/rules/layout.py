"""Characters and lines: line ends, ftfy, invisible characters, scene breaks, joined lines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from statistics import quantiles

from gpt1.corpus.rules.rule import PLACES, Applied, Edit, TextRule, changed, replacing

# --- Line ends and ftfy ---------------------------------------------------------------------------

# ftfy would turn the `\r\r\n` of some files into two line breaks, so this comes before it. A run
# has one match: linear time.
_LINE_END = re.compile(r"\r+\n?")


def _unify_line_ends(text: str) -> Applied:
    """`\\r\\n`, `\\r\\r\\n` and runs of `\\r` become `\\n`."""
    if "\r" not in text:
        return Applied(text)
    done, strikes = _LINE_END.subn("\n", text)
    at = text.find("\r")
    place = text[max(0, at - 30) : at + 30]
    return changed(text, done, strikes, [(place, _LINE_END.sub("\n", place))])


def _fix_text(text: str) -> Applied:
    """ftfy with its defaults over the complete text; a strike is a line that came out different.

    Line by line differs: after the first `<` of a text ftfy leaves HTML entities alone.
    """
    from gpt1.tokenizer.normalize import fix_text

    fixed = fix_text(text)
    lines = zip(text.split("\n"), fixed.split("\n"), strict=False)
    pairs = [(old, new) for old, new in lines if old != new] if fixed != text else []
    return changed(text, fixed, max(1, len(pairs)), pairs[:: max(1, len(pairs) // PLACES)])


LINE_ENDS = TextRule(
    "line_ends", "Windows and old Macintosh line ends become one newline.", (_unify_line_ends,),
    sentences=True,
)
FTFY = TextRule(
    "ftfy",
    "ftfy fixes mojibake, entities, quotes and ligatures over the complete text, not line by line.",
    (_fix_text,), sentences=True,
)

# --- Invisible characters -------------------------------------------------------------------------

# A token with one of these is another token than the word that is read. None of them is text:
# - soft hyphen: where a word may be divided; at a line's end it divides one
# - zero-width space and (non-)joiner, word joiner, combining grapheme joiner, no-break space of no
#   width (the byte-order mark): where lines may break and letters join
# - direction marks, embeddings and isolates: the order in which letters are drawn
# - invisible operators, fillers, vowel separators, variation selectors, tags, annotation and music
#   controls: how the character before or after is drawn
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff](?:(?<=\u00ad)[ \t]*\n[ \t]*(?=\\w))?"
)
INVISIBLES = TextRule(
    "invisible", "Soft hyphens, zero-width characters, byte-order and direction marks are removed.",
    (replacing(INVISIBLE),), sentences=True,
)

# --- Scene breaks ---------------------------------------------------------------------------------

_ROW = r"[ \t]{0,60}(?:\*(?:[ \t]{0,12}\*){1,19}|(?:[-_=~•#][ \t]{0,3}){5,80})[ \t]{0,20}"
_ROWS = re.compile(rf"\n{_ROW}(?:\n\s{{0,200}}{_ROW})*(?=\n|\Z)")
_PAGE = 40


def _unify_scene_breaks(text: str) -> Iterator[Edit]:
    """Each row, or several in succession, becomes a line `* * *`: the break tells where a scene
    ends, its looks tell nothing.

    A line of forty dashes or more is a printed page's end and goes; so does a row with no text
    before or after it.
    """
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    for row in _ROWS.finditer(text):
        is_page = "*" not in row.group() and row.group().count("-") >= _PAGE
        is_edge = row.start() <= begin or row.end() >= end
        new = "\n" if is_page or is_edge else "\n* * *"
        if row.group() != new:
            yield Edit(row.start(), row.end(), new)


SCENE_BREAKS = TextRule(
    "scene_breaks",
    "Rows of asterisks, dashes or the like become `* * *`, which marks the end of a scene.",
    (_unify_scene_breaks,),
)

# --- Wrapped lines --------------------------------------------------------------------------------

_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n?")
_FEWEST_LINES = 20
_NARROWEST, _WIDEST = 30, 120
_SLACK = 0.85


def _join_lines(text: str) -> Applied:
    """Hard-wrapped lines joined by a space; then runs of blank lines become one, and the text is
    stripped. A strike is a line joined to the one before.

    A line was wrapped, and did not end by intent, when the first word of the next would not have
    fitted any more. What fits is judged by the book's own width: the length that nine in ten of the
    lines inside paragraphs do not exceed, with a slack of 15 %. Nothing is joined in a book that is
    mostly paragraphs of one long line: it was not wrapped, and what has several lines is verse.
    """
    paragraphs = [paragraph.split("\n") for paragraph in _PARAGRAPHS.split(text)]
    width, joined, strikes = _width(paragraphs), text, 0
    if width is not None:
        inner = [line for lines in paragraphs for line in lines[:-1]]
        alone = (len(lines[0]) for lines in paragraphs if len(lines) == 1)
        is_wrapped = sum(length for length in alone if length > _WIDEST) <= sum(map(len, inner))
        # Two spaces at a line's end are Markdown's sign for a break that is meant, unless most
        # lines inside paragraphs end so.
        marked = 2 * sum(line.endswith("  ") for line in inner) < len(inner)
        room = width * _SLACK if is_wrapped else math.inf
        made = [_join(lines, room, marked) for lines in paragraphs]
        strikes = sum(number for _, number in made)
        joined = "\n\n".join(paragraph for paragraph, _ in made if paragraph)
    done = _BLANK_LINES.sub("\n\n", joined).strip()
    return changed(text, done, strikes, _places(text, done) if strikes else ())


def _width(paragraphs: list[list[str]]) -> float | None:
    """The width the lines were wrapped to, or None when they were not."""
    lengths = [len(line.strip()) for lines in paragraphs for line in lines[:-1] if line.strip()]
    if len(lengths) < _FEWEST_LINES:
        return None
    width = quantiles(lengths, n=10)[-1]
    return width if _NARROWEST <= width <= _WIDEST else None


def _join(lines: list[str], room: float, marked: bool) -> tuple[str, int]:
    """A paragraph, and how many of its lines were joined.

    Where most lines end short and few begin with a small letter, as in verse and lists, only the
    latter are joined.
    """
    stripped = [line.strip() for line in lines]
    wrapped = [
        bool(line and before)
        and not (marked and raw.endswith("  "))
        and len(before) + 1 + len(line.split(maxsplit=1)[0]) > room
        for raw, before, line in zip(lines, stripped, stripped[1:], strict=False)
    ]
    small = [line[:1].islower() for line in stripped[1:]]
    if 2 * sum(wrapped) < len(wrapped) and 4 * sum(small) <= len(small):
        wrapped = [both == (True, True) for both in zip(wrapped, small, strict=True)]
    parts = stripped[:1]
    for before, line, is_wrapped in zip(stripped, stripped[1:], wrapped, strict=False):
        divided = before.endswith("-") and not before.endswith("--") and line[:1].islower()
        parts.append(f"{'' if divided else ' '}{line}" if is_wrapped else f"\n{line}")
    return "".join(parts).strip(), sum(wrapped)


def _places(text: str, done: str) -> list[tuple[str, str]]:
    """The beginnings of paragraphs that were one of several lines and are one of fewer."""
    places = []
    for paragraph in (part.strip() for part in _PARAGRAPHS.split(text[len(text) // 3 :])[1:60]):
        found = done.find(" ".join(paragraph.split("\n")[0].split())) if "\n" in paragraph else -1
        if found >= 0:
            places.append((paragraph[:200], done[found : found + 200].split("\n\n")[0]))
    return places[:PLACES]


JOIN_LINES = TextRule(
    "join_lines",
    "The lines of hard-wrapped paragraphs are joined and runs of blank lines become one.",
    (_join_lines,),
)
