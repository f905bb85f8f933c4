"""What surrounds a book's own text: licenses, credits, data about the file, contents."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpt1.corpus.rules.markup import drawn_blocks
from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited, matches, replacing

_PARAGRAPH = re.compile(r"[^\n]+(?:\n[^\n]+)*")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_BLANK_BEFORE = re.compile(r"\n[ \t]*\n[ \t]*\Z")
_VISIBLE = re.compile(r"\S")

# --- Project Gutenberg ----------------------------------------------------------------------------
# A file is a sequence: header, book, footer, and perhaps another book's header, book and footer.
#
#   header   ends with START OF, or with the end of the small print (before 2001), or with both
#   footer   begins at END OF; before 2001 at a line "End of Project Gutenberg's ..."; from 2001 to
#            2004 the small print follows, sometimes without END OF
#
# Markers that do not follow in this order are left in the text, and the book's record says so.

_REACH = 30_000
"""Most characters of a header or footer: with the whole license they run to some 20,000."""
_NEAR = 3_000
"""Most characters from one marker of a header to its next, and from a footer's to the license."""
_LAST_WORDS = 1_000
"""Most characters that follow a small print that is a footer."""

_GAP = r"\s{1,4}"  # a marker may be broken over two lines
_OF_PROJECT = rf"{_GAP}(?:[^\W\d_]{{1,12}}{_GAP}){{0,3}}PRO[JGY]E[CKT]{{1,2}}[IO]?{_GAP}GUTENBERG"
_STARRED = re.compile(
    r"\*(?<!\*\*)\*{0,40}+[ \t]{0,4}(?:"
    rf"(?P<start>(?:START|BEGIN(?:N|NING)?|ANFANG|D[EÉ]BUT|IN[IÍ]CIO|INIZIO|COMIENZO){_OF_PROJECT}"
    r"(?:[^\n*]{0,300}(?:\n[^\n*]{1,300}){0,3}\*\*\*[^\n]*\n?|[^\n]*\n?))"
    rf"|(?P<end>(?:ENDE?|EINDE|FIN|FINE|FIM|SLUT|LOPPU){_OF_PROJECT}"
    r"|START:? FULL LICENSE|This is a COPYRIGHTED Project Gutenberg E-?text, Details Above)"
    r"|(?P<closed>END[ *]{0,4}(?:OF )?(?:THE )?SMALL PRINT[^\n]*"
    r"(?:\n[^\n*]{0,80}\*[^\n*]{0,40}\*END[^\n]*)?\n?)"
    r"|(?P<opened>(?:START\*{0,4} ?)?(?:THE )?SMALL PRINT))",
    re.IGNORECASE,
)
"""Markers in asterisks; START OF with its title, which may run over four lines."""
_PLAIN = re.compile(
    rf"^[ \t]*+(?:(?P<start>(?:Beginning{_OF_PROJECT}|\[\"Small Print\" V\.)[^\n]*\n?)"
    rf"|(?P<end>THE FULL PROJECT GUTENBERG LICENSE|(?:Ende?|Fin){_OF_PROJECT}"
    r"(?=['’]s\b|(?:[ -]\w{2,12}){0,2}[ -]E-?(?:TEXT|BOOK)|[ ](?:EDITION|FILE)|[ \t.*]*$)))",
    re.IGNORECASE | re.MULTILINE,
)
_LICENSE = re.compile(
    r"Literary Archive|SMALL PRINT|gutenberg\.(?:org|net)|\bdonations?\b|file should be named"
    r"|^[ \t]*\*+ ?(?:END|START)\b",
    re.IGNORECASE | re.MULTILINE,
)
# The sister projects have no markers, but paragraphs of their own at the head and the end.
_SISTER = re.compile(
    r"Project Gutenberg (?:of )?(?:Australia|Canada)|Distributed Proofreaders Canada", re.IGNORECASE
)
_SISTER_PAGE = re.compile(
    rf"{_SISTER.pattern}|gutenberg\.(?:net\.au|ca)\b|^e-?book no\b|^date (?:first|most|last) "
    r"|this e-?book (?:was produced|is made available)|copyright laws are changing"
    r"|canadian public domain|public domain in (?:australia|canada)",
    re.IGNORECASE | re.MULTILINE,
)
_SISTER_END = re.compile(
    rf"^[ \t]*(?:_?\[_?End of [^\n\]]{{1,200}}\]|[^\n]{{0,200}}(?:{_SISTER.pattern}))",
    re.IGNORECASE | re.MULTILINE,
)
_SISTER_HEAD, _SISTER_TAIL = 8_000, 1_500
"""Most characters of the page at the head; of what follows the end or parts its paragraphs."""


@dataclass(frozen=True)
class _Marker:
    kind: str
    """`start`, `end`, or `print` for a small print from its first line to its last."""
    start: int
    end: int


def _remove_gutenberg(text: str) -> Applied:
    """One edit for each header and footer, and one for a footer with the header that follows."""
    markers = _markers(text)
    if not markers:
        return edited(text, _sister_project(text))
    length = len(text.rstrip())
    cuts: list[Edit] = []
    begin, footer = 0, None  # where the book under way begins, and the footer after it
    for index, marker in enumerate(markers):
        following = markers[index + 1] if index + 1 < len(markers) else None
        has_text = _VISIBLE.search(text, begin, marker.start) is not None
        if marker.kind == "end" or (
            marker.kind == "print"
            and has_text
            and _is_footers(marker, following, marker.start - begin, length, footer, bool(cuts))
        ):
            too_far = footer is not None and marker.start - footer > _REACH
            if (footer is None or too_far) and (has_text or cuts):
                footer = marker.start
            continue
        first = begin if footer is None else footer
        second = bool(cuts) and footer is None  # the second marker of one header
        footer = None
        must_be_near = marker.kind == "start" or length - marker.end < marker.start - begin
        if marker.start - first <= (_NEAR if second and must_be_near else _REACH):
            cuts.append(Edit(cuts.pop().start if second else first, marker.end))
            begin = marker.end
    if footer is not None and len(text) - footer <= _REACH:
        cuts.append(Edit(footer, len(text)))
    done = edited(text, cuts)
    if not done.text.strip():
        return Applied(text, note="no text remains between the markers; everything is kept")
    starts = [0, *(cut.start for cut in cuts)]
    ends = [0, *(cut.end for cut in cuts)]
    left = sum(mark.start >= ends[bisect_right(starts, mark.start) - 1] for mark in markers)
    return replace(done, note=f"{left} markers out of order are left" if left else None)


def _markers(text: str) -> list[_Marker]:
    """Those at the beginning of a line, in order."""
    found: dict[int, _Marker] = {}
    windows = [(0, _REACH), (max(_REACH, len(text) - _REACH), len(text))]
    opened: int | None = None
    for match in _STARRED.finditer(text):
        kind, start = match.lastgroup or "", match.start()
        if text[max(0, start - 80) : start].rpartition("\n")[2].strip():
            continue
        if kind == "opened":
            opened = start
            continue
        if kind == "closed":
            kind, start = "print", start if opened is None else opened
        found[start] = _Marker(kind, start, match.end())
        windows.append((max(0, start - _NEAR), start))
        opened = None
    words = -1, -1  # the next ones of the license: each is looked for once
    for match in (plain for window in _joined(windows) for plain in _PLAIN.finditer(text, *window)):
        kind, end = match.lastgroup or "", match.end()
        if words[0] < end:
            license_words = _LICENSE.search(text, end)
            words = license_words.span() if license_words else (len(text), len(text) + _NEAR)
        is_last = len(text) - end <= _LAST_WORDS or words[1] <= end + _NEAR
        if kind == "start" or is_last or _is_title(text, match.start()):
            found[match.start()] = _Marker(kind, match.start(), end)
    return [found[start] for start in sorted(found)]


def _joined(windows: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same places in order, each once."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(windows):
        if joined and start <= joined[-1][1]:
            start, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((start, end))
    return joined


def _is_title(text: str, start: int) -> bool:
    """Whether a short paragraph begins there that does not end like a sentence."""
    paragraph = _BLANK_LINE.split(text[start : start + 400], 1)[0].rstrip()
    alone = _BLANK_BEFORE.search(text, max(0, start - 80), start)
    return alone is not None and 0 < len(paragraph) <= 300 and paragraph[-1] not in ".,;:!?\"'"


def _is_footers(
    marker: _Marker, following: _Marker | None, before: int, length: int, footer: int | None,
    has_header: bool,
) -> bool:
    """Whether a small print belongs to a footer: little follows it, or another book's header does.

    `before` and `length` count the characters of the book before it and of the complete text.
    """
    if footer is not None:
        return following is None or (
            following.kind != "end" and following.start - marker.end <= _REACH
        )
    if has_header and following is not None and following.kind == "start":
        return following.start - marker.end <= (_REACH // 2 if before > _NEAR else _NEAR)
    return length - marker.end <= (_NEAR if has_header and before > _NEAR else _LAST_WORDS)


def _sister_project(text: str) -> Iterator[Edit]:
    """The page about the file at the head of a book of a sister project, and the line after its
    end.
    """
    if not _SISTER.search(text, 0, _SISTER_TAIL):
        return
    found = begin = 0
    for part in _PARAGRAPH.finditer(text, 0, _SISTER_HEAD):
        if part.start() - begin <= _SISTER_TAIL and _SISTER_PAGE.search(part.group()):
            found, begin = found + 1, part.end()
    if found > 1 and text[begin:].strip():
        yield Edit(0, begin)
        if end := _SISTER_END.search(text, max(begin, len(text) - _SISTER_TAIL)):
            yield Edit(end.start(), len(text))


GUTENBERG = TextRule(
    "gutenberg", "Project Gutenberg's header, footer and license are removed.",
    (_remove_gutenberg,),
)

# --- Data about the file --------------------------------------------------------------------------

_TITLE_BLOCK = re.compile(
    r"\A\s*+(?:\#{0,6}[ \t]*(?:Title|Author|Year|Translator|Editor|Illustrator|Language|Release"
    r" Date|Posting Date|Last Updated|Character set encoding|Credits|Publisher|Publication date)"
    r"[ \t]*:[^\n]{0,300}(?:\n\s*+|\Z)){2,20}(?:-{3,}[ \t]*\n)?"
)
TITLE_BLOCK = TextRule(
    "title_block", "Lines such as `Title: …` and `Author: …` at the very start are removed.",
    (lambda text: matches(_TITLE_BLOCK, text, end=10_000),),
)

# --- Smashwords -----------------------------------------------------------------------------------

_SHOP_HEAD, _SHOP_TAIL = 8_000, 15_000
_LONGEST_PARAGRAPH = 2_000
_SMASHWORDS = re.compile(r"smashwords", re.IGNORECASE)
# What a paragraph of the license page says; each is removed as a whole, and only near the head of a
# book that names Smashwords.
_LICENSE_PAGE = re.compile(
    r"smashwords|licen[sc]e notes?|licen[sc]ed for your personal (?:enjoyment|use)|may not be"
    r" re-?sold|purchase an additional copy"
    r"|respecting the (?:hard )?work of (?:this|the) author|all rights"
    r" reserved|^\s*(?:copyright|©|\(c\)) |\bISBN\b"
    r"|work of fiction\b.{0,300}(?:coincidental|imagination|fictitious)|cover"
    r" (?:art|design|image|photo)\w* (?:by|©|copyright)"
    r"|this (?:free )?e-?book (?:may|is|remains)\b",
    re.IGNORECASE | re.DOTALL,
)
_END_MARK = re.compile(
    r"^[ \t]*(?:(?:#{3,}|# ?# ?#|\*{3,}|(?:\* ){2,}\*|~{3,}|\*+~+\*+)[ \t]*$"
    r"|(?:About the Author|ABOUT THE AUTHOR)\b)",
    re.MULTILINE,
)
_END_MATTER = re.compile(
    r"smashwords|about the author|connect with|other (?:titles|books) by|also"
    r" by|https?://|www\.|facebook|twitter|follow me"
    r"|thank you for (?:reading|purchasing|downloading)|leave a review",
    re.IGNORECASE,
)
_SURE = re.compile(r"smashwords|https?://|www\.|facebook|twitter", re.IGNORECASE)


def _remove_smashwords(text: str) -> Iterator[Edit]:
    """Paragraphs of the license page go one by one, and nothing after the last one that names
    Smashwords, or three paragraphs later; the end matter goes from its break (`###`) or heading to
    the end.
    """
    tail = max(0, len(text) - _SHOP_TAIL)
    parts: list[re.Match[str]] = []
    if _SMASHWORDS.search(text, 0, _SHOP_HEAD):
        parts = [
            part
            for part in _PARAGRAPH.finditer(text, 0, _SHOP_HEAD)
            if part.end() < _SHOP_HEAD or part.end() == len(text)
        ]
    elif not _SMASHWORDS.search(text, tail):
        return
    named = [
        index
        for index, part in enumerate(parts)
        if _SMASHWORDS.search(part.group()) or "personal enjoyment" in part.group()
    ]
    at = 0
    for part in parts[: named[-1] + 4] if named else []:
        if len(part.group()) <= _LONGEST_PARAGRAPH and _LICENSE_PAGE.search(part.group()):
            at = part.end()
            yield Edit(part.start(), at)
    start = _end_matter(text, tail)
    if start is not None and at <= start:
        yield Edit(start, len(text))


def _end_matter(text: str, tail: int) -> int | None:
    """The first break or heading near the end after which nearly all is about author and shop."""
    sure = max((found.start() for found in _SURE.finditer(text, tail)), default=-1)
    for mark in _END_MARK.finditer(text, tail):
        rest = text[mark.start() : mark.start() + _LONGEST_PARAGRAPH]
        first = "\n".join(line for line in rest.split("\n")[1:] if line.strip())[:400]
        if sure >= mark.start() and _END_MATTER.search(first + rest[:60]):
            return mark.start() if text[: mark.start()].strip() else None
    return None


SMASHWORDS = TextRule(
    "smashwords", "Smashwords' license page and the author's links after the end are removed.",
    (_remove_smashwords,),
)

# --- Credits --------------------------------------------------------------------------------------

# Paragraphs of their own that name somebody: the same words occur inside sentences.
_CREDITS = re.compile(
    r"(?:\A\s*+|(?<=\n)[ \t]*\n[ \t]*)[\[(]?"
    r"(?:(?:This (?:Project Gutenberg )?(?:[Ee]-?[Tt]ext|[Ee]-?[Bb]ook|file) was )?"
    r"(?:[Pp]roduced|[Pp]repared|[Tt]ranscribed|[Ss]canned(?: and proofed)?|[Pp]roofread)"
    r"|E-?[Tt]ext (?:prepared|produced|scanned|transcribed)|HTML version"
    r" (?:created|prepared|produced)|Transcribed (?:and edited )?from)"
    r"(?: by:?|(?<=from)) (?:the |an? )?(?:[A-Z]|\d{4}\b)[^\n]*(?:\n[ \t]*\S[^\n]*){0,8}(?=\n["
    r" \t]*\n|\s*\Z)"
)
_IMAGES = re.compile(
    r"(?<=\n)[ \t]*\n[ \t]*(?:\[?Note: (?:Images of|Project Gutenberg|This)"
    r"|[\[(]?This (?:file|book) was produced from"
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
_WIDE_GAP = re.compile(r"\n[ \t]*\n[ \t]*\n[ \t]*\n")
_LONGEST_NOTE = 4_000
_LAST = 25_000


def _boxes(text: str) -> Iterator[Edit]:
    if "|" in text and "ranscriber" in text:
        for start, end in drawn_blocks(text):
            if "transcriber" in text[start:end].lower():
                yield Edit(start, end)


def _at_head(pattern: re.Pattern[str], text: str) -> Iterator[Edit]:
    """What begins within `_REACH`: the paragraph there is looked at up to its end."""
    blank = _BLANK_LINE.search(text, _REACH)
    for edit in matches(pattern, text, end=blank.end() if blank else None):
        if edit.start < _REACH:
            yield edit


def _note_at_head(text: str) -> Iterator[Edit]:
    """From the heading to a gap of three lines; without one within reach the note's own
    paragraph and the next.
    """
    found = _NOTE.search(text, 0, _REACH // 3)
    if found is None or len(text) - found.start() <= _LAST:
        return
    reach = (found.end(), found.end() + _LONGEST_NOTE)
    if gap := _WIDE_GAP.search(text, *reach):
        yield Edit(found.start(), gap.start())
    elif blank := [line.end() for line in _BLANK_LINE.finditer(text, *reach)]:
        yield Edit(found.start(), blank[:2][-1])


def _note_at_end(text: str) -> Iterator[Edit]:
    """From the heading to the text's end, when that is a short way."""
    if found := _NOTE.search(text, max(len(text) // 2, len(text) - _LAST)):
        yield Edit(found.start(), len(text))


CREDITS = TextRule(
    "credits", "`Produced by …` and transcribers' notes are removed.",
    (
        _boxes,
        replacing(_BRACKETED),
        lambda text: _at_head(_CREDITS, text),
        lambda text: _at_head(_IMAGES, text),
        _note_at_head,
        _note_at_end,
    ),
)

# --- Contents -------------------------------------------------------------------------------------

_CONTENTS_REACH = 60_000
_HEADING = re.compile(
    r"^[ \t]*(?:THE |TABLE OF )?(?:CONTENTS|Contents|Table of Contents)(?: OF [A-Z .]{1,40})?[.:]?["
    r" \t]*$",
    re.MULTILINE,
)
_LEADERS = re.compile(
    r"[^\n]{0,120}(?:\.{4,}|(?:\. ){4,}|(?:[ \t]{3,}))[ .\t]*(?:\d{1,4}|[ivxlc]{1,8})[ \t]*"
)
_NUMBERS = re.compile(
    r"^(?:\d{1,4}|[ivxlc]{1,8})[. \t]+(?=\S)|[ .\t]+(?:\d{1,4}|[ivxlc]{1,8})[ .]*$"
)
_WORDS = re.compile(r"[a-z0-9]+")
_DIVISIONS = {
    "page", "chapter", "chap", "book", "part", "volume", "vol", "act", "scene", "section", "canto",
    "letter",
}  # fmt: skip
_LONGEST_ENTRY = 150
_MOST_LINES = 1_500


@dataclass(frozen=True)
class _Line:
    start: int
    end: int
    text: str
    blanks: int
    """How many empty lines stand before it."""


def _list_of_contents(text: str) -> Iterator[Edit]:
    """A list under the heading CONTENTS, up to the first chapter."""
    heading = _HEADING.search(text, 0, _CONTENTS_REACH)
    if heading and (end := _list_end(list(_lines(text, heading.end())))):
        yield Edit(heading.start(), end)


def _lines(text: str, at: int) -> Iterator[_Line]:
    blanks = 0
    for line in text[at : at + 2 * _CONTENTS_REACH].split("\n", _MOST_LINES)[:_MOST_LINES]:
        if line.strip():
            yield _Line(at, at + len(line), line.strip(), blanks)
            blanks = 0
        else:
            blanks += 1
        at += len(line) + 1


def _list_end(lines: list[_Line]) -> int | None:
    """The end of the last entry; None where the list's end cannot be found.

    The list ends where one of its entries is said again (the chapter's own heading, with what
    stands just above it), or before the first prose at the widest gap that the text makes on the
    way there.
    """
    seen: dict[str, int] = {}
    for index, line in enumerate(lines):
        if _is_prose(lines[index : index + 3]):
            return _before_prose(lines, index)
        key = _key(line.text)
        if index - seen.setdefault(key, index) >= 2 and key and line.blanks:
            return _before_heading(lines, index)
    return None


def _key(text: str) -> str:
    """An entry without its own number, its page's and leaders; nothing for `CHAPTER I`, which
    parts of a list may say again.
    """
    words = _WORDS.findall(_NUMBERS.sub("", text.lower()))
    return " ".join(words) if words and not (words[0] in _DIVISIONS and len(words) <= 2) else ""


def _is_prose(lines: list[_Line]) -> bool:
    """Whether the first of three lines is full and goes on in the next without a sign of a list."""
    if len(lines[0].text) > _LONGEST_ENTRY:
        return True
    if len(lines) < 3 or min(len(line.text) for line in lines[:2]) < 45:
        return False
    if lines[1].blanks or lines[2].blanks or any(_ends_in_page(line.text) for line in lines):
        return False
    letters = [c for line in lines[:2] for c in line.text if c.isalpha()]
    lower = sum(c.islower() for c in letters) / max(1, len(letters))
    return lower > 0.85 and not any("--" in line.text for line in lines[:2])


def _before_prose(lines: list[_Line], index: int) -> int | None:
    """The end of the line above the widest gap before the prose, at least two empty lines.

    Of several gaps of that width the first that leaves a list behind it: parts of the list may be
    set apart as widely.
    """
    widest = max((line.blanks for line in lines[1 : index + 1]), default=0)
    if index < 2 or widest < 2:
        return None
    wide = [n for n in range(1, index + 1) if lines[n].blanks >= max(2, widest - 1)]
    cut = wide[-1] if len(wide) < 3 else max(n for n in wide if lines[n].blanks == widest)
    return lines[cut - 1].end if cut >= 2 else None


def _before_heading(lines: list[_Line], index: int) -> int | None:
    """The end of the line above a chapter's heading, with up to three lines that stand over it."""
    cut = index
    while cut > 2 and lines[cut].blanks < 2 and index - cut < 3:
        cut -= 1
    if lines[cut].blanks < 2:
        cut = index
    return lines[cut - 1].end


def _ends_in_page(line: str) -> bool:
    """An entry with leaders or a wide gap before the number of its page.

    Long lines are none, and would cost much to match.
    """
    return len(line) <= _LONGEST_ENTRY and _LEADERS.fullmatch(line) is not None


def _dotted_lines(text: str) -> Iterator[Edit]:
    """Three or more lines together that end in a page's number after leaders, in the head."""
    group: list[int] = []
    start = at = 0
    for line in [*text[:_CONTENTS_REACH].split("\n"), "end"]:
        if ("...." in line or ". . . ." in line) and _ends_in_page(line):
            start = start if group else at
            group.append(at + len(line))
        elif line.strip():
            if len(group) >= 3:
                yield Edit(start, group[-1])
            group = []
        at += len(line) + 1


CONTENTS = TextRule(
    "contents", "The table of contents near the head is removed.",
    (_list_of_contents, _dotted_lines),
)
