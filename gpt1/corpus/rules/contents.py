"""Tables of contents near the head of a book."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, chained, edited

_REACH = 60_000
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
}
_LONGEST_ENTRY = 75
_MOST_LINES = 1_500


@dataclass(frozen=True)
class _Line:
    start: int
    end: int
    text: str
    blanks: int
    """How many empty lines stand before it."""


def remove_contents(text: str) -> Applied:
    """A list under the heading CONTENTS, up to the first chapter; and three or more lines
    together that end in a page's number.
    """
    return chained(text, _under_heading, _dotted)


def _under_heading(text: str) -> Applied:
    heading = _HEADING.search(text, 0, _REACH)
    if heading is None:
        return Applied(text)
    end = _list_end(list(_lines(text, heading.end())))
    return edited(text, [Edit(heading.start(), end)] if end else [])


def _lines(text: str, at: int) -> Iterator[_Line]:
    blanks = 0
    for line in text[at : at + 2 * _REACH].split("\n")[:_MOST_LINES]:
        if line.strip():
            yield _Line(at, at + len(line), line.strip(), blanks)
            blanks = 0
        else:
            blanks += 1
        at += len(line) + 1


def _list_end(lines: list[_Line]) -> int | None:
    """The end of the last entry; None where the list's end cannot be told.

    The list ends where one of its entries is said again (the chapter's own heading, with what
    stands just above it), or before the first prose at the widest gap that the text makes on the
    way there.
    """
    seen: dict[str, int] = {}
    for index, line in enumerate(lines):
        key = _key(line.text)
        if _is_prose(lines, index):
            return _before(lines, index, widest=True)
        if key and key in seen and line.blanks >= 1 and index - seen[key] >= 2:
            return _before(lines, index, widest=False)
        if key:
            seen.setdefault(key, index)
    return None


def _key(text: str) -> str:
    """An entry without its own number, its page's and leaders; nothing for `CHAPTER I`, which
    parts of a list may say again.
    """
    words = _WORDS.findall(_NUMBERS.sub("", text.lower()))
    return " ".join(words) if words and not (words[0] in _DIVISIONS and len(words) <= 2) else ""


def _is_prose(lines: list[_Line], index: int) -> bool:
    """A full line that goes on in the next one without a sign of a list."""
    line = lines[index]
    if len(line.text) > 2 * _LONGEST_ENTRY:
        return True
    if index + 2 >= len(lines) or len(line.text) < 45 or _ends_in_page(line.text):
        return False
    following = lines[index + 1 : index + 3]
    wrapped = all(not other.blanks for other in following) and len(following[0].text) >= 45
    letters = [c for c in line.text + following[0].text if c.isalpha()]
    lower = sum(c.islower() for c in letters) / max(1, len(letters))
    dashes = "--" in line.text or "--" in following[0].text
    return (
        wrapped
        and lower > 0.85
        and not dashes
        and not any(_ends_in_page(other.text) for other in following)
    )


def _before(lines: list[_Line], index: int, widest: bool) -> int | None:
    """The end of the line above the gap that parts the list from the book: at least two entries
    must lie above it.
    """
    inner = lines[1 : index + 1]
    if len(inner) < 2:
        return None
    if widest:
        widest_gap = max(line.blanks for line in inner)
        if widest_gap < 2:
            return None
        cut = max(number for number in range(1, index + 1) if lines[number].blanks == widest_gap)
        # Of several gaps of that width the first that leaves a list behind it: parts of the list
        # may be set apart as widely.
        candidates = [
            number
            for number in range(1, index + 1)
            if lines[number].blanks >= max(2, widest_gap - 1)
        ]
        cut = candidates[-1] if len(candidates) < 3 else cut
    else:
        cut = index
        while cut > 2 and lines[cut].blanks < 2 and index - cut < 3:
            cut -= 1
        if lines[cut].blanks < 2:
            cut = index
    return lines[cut - 1].end if cut >= 2 else None


def _ends_in_page(line: str) -> bool:
    """An entry with leaders or a wide gap before the number of its page.

    Long lines are none, and would cost much to match.
    """
    return len(line) <= 2 * _LONGEST_ENTRY and _LEADERS.fullmatch(line) is not None


def _dotted(text: str) -> Applied:
    """Lines with leaders, wherever in the head they stand."""
    edits: list[Edit] = []
    group: list[tuple[int, int]] = []
    at = 0
    for line in text[:_REACH].split("\n"):
        if ("...." in line or ". . . ." in line) and _ends_in_page(line):
            group.append((at, at + len(line)))
        elif line.strip():
            edits += _edit_of(group)
            group = []
        at += len(line) + 1
    return edited(text, [*edits, *_edit_of(group)])


def _edit_of(group: list[tuple[int, int]]) -> list[Edit]:
    return [Edit(group[0][0], group[-1][1])] if len(group) >= 3 else []


RULE = TextRule("contents", "The table of contents near the head is removed.", remove_contents)
