"""Signs of markup in a text, and what they mark: tags, emphasis, headings, illustrations, tables,
footnotes, page numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html import unescape

from gpt1.corpus.rules.layout import INVISIBLE
from gpt1.corpus.rules.rule import Applied, Edit, TextRule, chained, matches, replacing

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
