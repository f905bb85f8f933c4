"""Signs in a text that are no words, and how its lines are set: line ends, ftfy, invisible
characters, tags, emphasis, headings, illustrations, tables, footnotes, page numbers, scene breaks,
wrapped lines.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from html import unescape
from statistics import quantiles

from gpt1.corpus.rules.rule import (
    PLACES,
    Applied,
    Edit,
    TextRule,
    chained,
    changed,
    matches,
    replacing,
)

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

# --- HTML -----------------------------------------------------------------------------------------

_BLOCKS = (
    "p|div|h[1-6]|pre|hr|table|tr|ul|ol|li|blockquote|center|body|html|head|title|dl|dt|dd|section"
    "|article|footer|header|nav"
)
_INLINE = (
    "a|b|i|u|em|strong|span|img|sup|sub|font|small|big|tt|code|cite|abbr|td|th|tbody|thead|meta"
    "|link|q|s|del|ins|mark|ruby"
)
_TAG = re.compile(
    rf"<(?:/?(?:({_BLOCKS})|(br)|(?:{_INLINE}))(?:\s(?=[^<>]{{0,1000}}=)[^<>]{{0,1000}}|\s?)/?>"
    r"|!--[^<>]{0,2000}-->)",
    re.IGNORECASE,
)
_SCRIPT = re.compile(r"<(style|script)\b[^<>]{0,500}>[^<]{0,20000}</\1>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}|#\d{2,6}|#x[0-9A-Fa-f]{2,5});")


def _tags(text: str) -> Iterator[Edit]:
    """A block's tag leaves an empty line, `<br>` a line break. Other uses of `<` stay."""
    return matches(_TAG, text, lambda tag: "\n\n" if tag[1] else "\n" if tag[2] else "")


def _entities(text: str) -> Iterator[Edit]:
    return matches(_ENTITY, text, lambda found: INVISIBLE.sub("", unescape(found.group())))


def _strip_html(text: str) -> Applied:
    """Known tags go, and then the entities, which ftfy leaves alone where there are tags."""
    scripts = replacing(_SCRIPT)
    done = chained(text, scripts, _tags)
    return chained(text, scripts, _tags, _entities) if done.strikes else done


HTML = TextRule(
    "html", "HTML tags and comments are removed, and entities in such texts resolved.",
    (_strip_html,), sentences=True,
)

# --- Emphasis and headings ------------------------------------------------------------------------

# A stretch within one paragraph, without the sign itself: each sign is looked at from the last one
# only, so the time is linear. The sign comes first: a pattern that begins with a letter of its own
# is searched for at the speed of memory.
_INSIDE = r"(?=[^\s{0}])(?:[^{0}\n]|\n(?![ \t]*\n)){{1,{1}}}(?<=\S)"
_UNDERSCORES = re.compile(r"_(?<![^\W\d]_)(?<!__)()" + _INSIDE.format("_", 1500) + r"_(?!_)")
_EQUALS = re.compile(r"=(?<![\w=]=)()" + _INSIDE.format("=", 200) + r"=(?![\w=])")
_TILDES = re.compile(r"~(?<![\w~]~)()" + _INSIDE.format("~", 200) + r"~(?![\w~])")
_STARS = re.compile(
    r"\*(?<![\w*]\*)(\*{0,2})(?![,;:.!?)\]])" + _INSIDE.format("*", 500) + r"\*\1(?![\w*])"
)
_HEADING = re.compile(r"#(?<![^\n]#)#{0,5}[ \t]+(?=\S)")


def _inside(found: re.Match[str]) -> str:
    width = 1 + len(found[1])
    return found.group()[width:-width]


EMPHASIS = TextRule(
    "emphasis", "`_word_`, `*word*`, `=word=` and `~word~` lose their markers; the words stay.",
    tuple(replacing(signs, _inside) for signs in (_UNDERSCORES, _EQUALS, _TILDES, _STARS)),
    sentences=True,
)
"""Over a line's end too. Single signs, `snake_case`, blanks such as `____` and rows of asterisks
stay.
"""
HEADINGS = TextRule(
    "headings", "Markdown's `#` before a heading is removed; the heading stays.",
    (replacing(_HEADING),),
)

# --- Illustrations and tables ---------------------------------------------------------------------

# Up to one pair of brackets inside; bounded, so that marks never closed cost little each. One that
# is never closed ends with its line, where that ends a paragraph.
_ILLUSTRATION = re.compile(
    r"\[(?:[Ii]llustrations?|ILLUSTRATIONS?|[Ff]rontispiece|Picture|Decoration)\b"
    r"(?:(?:[^\[\]]|\[[^\[\]]{0,200}\]){0,1500}\]|:[^\[\]\n]{0,200}(?=\n[ \t]*(?:\n|\Z)))"
)
ILLUSTRATIONS = TextRule(
    "illustrations", "`[Illustration: …]` and the like are removed, captions included.",
    (replacing(_ILLUSTRATION),),
)

# Each character in one way only, so in linear time.
_BORDER = re.compile(r"\s*\+(?:[-=]|[ \t]*\+){4,}\s*")
_FEWEST_LINES = 3


def _drawn_tables(text: str) -> Iterator[Edit]:
    """Columns between bars go; a box of one column loses its frame and keeps its words."""
    for start, end in drawn_blocks(text) if "|" in text else ():
        lines = text[start:end].split("\n")
        inside = [line.strip() for line in lines if not _BORDER.fullmatch(line)]
        framed = all(
            line.startswith("|") and line.endswith("|") and line.count("|") <= 2 for line in inside
        )
        yield Edit(start, end, "\n".join(line.strip("| \t") for line in inside) if framed else "")


def drawn_blocks(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of at least three lines in succession, each with two bars or a border."""
    at = begin = end = lines = 0
    for line in [*text.split("\n"), ""]:
        if line.count("|") >= 2 or (line.count("+") >= 2 and _BORDER.fullmatch(line)):
            begin = begin if lines else at
            lines, end = lines + 1, at + len(line)
        else:
            if lines >= _FEWEST_LINES:
                yield begin, end
            lines = 0
        at += len(line) + 1


TABLES = TextRule(
    "tables", "Tables drawn with bars are removed; a box of one column loses its frame.",
    (_drawn_tables,),
)

# --- Footnotes and page numbers -------------------------------------------------------------------

_LABEL = r"\d{1,4}|[A-Z]|[*†‡§]"
_FOOTNOTE = re.compile(
    r"\[(?:Footnote|FOOTNOTE|footnote)\b(?:[^\[\]]|\[[^\[\]]{0,300}\]){0,4000}\]"
)
_JOINED = re.compile(rf"\[(?<=\S\[)({_LABEL})\]")
_NOTE = re.compile(rf"(?:\n[ \t]*){{2}}\[({_LABEL})\][ \t]*[^\n]+(?:\n[ \t]*\S[^\n]*)*")
_BRACE = re.compile(r"\{(\d{1,4}[a-z]?)\}")
_BRACE_NOTE = re.compile(r"(?:\n[ \t]*){2}\{(\d{1,4}[a-z]?)\}[ \t]*[^\n]+(?:\n[ \t]*\S[^\n]*)*")
_NOTES_HEADING = re.compile(r"\n[ \t]*(?:FOOTNOTES?|Footnotes?)[:.]?[ \t]*(?=\n|\Z)")
_PAGE_MARK = re.compile(
    r"\[[Pp](?:g|age|\.)\.? ?(?:\d{1,4}|[ivxlc]{1,8})\]"
    r"|\{(?:[Pp](?:g|age|\.)?\.? ?)?(?:\d{1,4}[a-z]?|[ivxlc]{1,8})\}"
)


def _notes(text: str) -> Iterator[Edit]:
    """Paragraphs that begin with a mark which elsewhere is joined to a word, and the headings over
    such paragraphs.
    """
    marks = set(_JOINED.findall(text))
    notes = [note for note in _NOTE.finditer(text) if note[1] in marks] if marks else []
    headings = _NOTES_HEADING.finditer(text) if notes else ()
    for found in sorted((*notes, *headings), key=re.Match.start):
        yield Edit(found.start(), found.end())


def _notes_in_braces(text: str) -> Iterator[Edit]:
    """Paragraphs that begin with a mark such as `{6}` which the text also has elsewhere: a page's
    number occurs once.
    """
    seen = Counter(_BRACE.findall(text))
    for note in _BRACE_NOTE.finditer(text) if seen else ():
        if seen[note[1]] > 1:
            yield Edit(note.start(), note.end())


FOOTNOTES = TextRule(
    "footnotes",
    "Footnote marks such as `[1]`, `[Footnote: …]` and the notes they point to are removed.",
    (replacing(_FOOTNOTE), _notes, replacing(_JOINED), _notes_in_braces),
)
PAGE_MARKS = TextRule(
    "page_marks", "Page numbers in brackets or braces, `[Pg 12]` and `{12}`, are removed.",
    (replacing(_PAGE_MARK),),
)
"""A number alone on a line stays: it may be a chapter's."""

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
_FEWEST_WRAPPED = 20
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
    if len(lengths) < _FEWEST_WRAPPED:
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
