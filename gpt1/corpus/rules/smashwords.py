"""The licence page at the head of a Smashwords book, and the author's links after its end."""

from __future__ import annotations

import re

from gpt1.corpus.rules.rule import Applied, Edit, TextRule, edited

_HEAD, _TAIL = 8_000, 15_000
_LONGEST = 2_000
_NAMED = re.compile(r"smashwords", re.IGNORECASE)
# What a paragraph of the licence page says; each is removed as a whole, and only near the head of a
# book that names Smashwords.
_PAGE = re.compile(
    r"smashwords|licen[sc]e notes?|licen[sc]ed for your personal (?:enjoyment|use)|may not be"
    r" re-?sold|purchase an additional copy"
    r"|respecting the (?:hard )?work of (?:this|the) author|all rights"
    r" reserved|^\s*(?:copyright|©|\(c\)) |\bISBN\b"
    r"|work of fiction\b.{0,300}(?:coincidental|imagination|fictitious)|cover"
    r" (?:art|design|image|photo)\w* (?:by|©|copyright)"
    r"|this (?:free )?e-?book (?:may|is|remains)\b",
    re.IGNORECASE | re.DOTALL,
)
_PARAGRAPH = re.compile(r"[^\n]+(?:\n[^\n]+)*")
_BREAK = re.compile(
    r"^[ \t]*(?:#{3,}|# ?# ?#|\*{3,}|(?:\* ){2,}\*|~{3,}|\*+~+\*+)[ \t]*$", re.MULTILINE
)
_END_MATTER = re.compile(
    r"smashwords|about the author|connect with|other (?:titles|books) by|also"
    r" by|https?://|www\.|facebook|twitter|follow me"
    r"|thank you for (?:reading|purchasing|downloading)|leave a review",
    re.IGNORECASE,
)
_SURE = re.compile(r"smashwords|https?://|www\.|facebook|twitter", re.IGNORECASE)


def remove_smashwords(text: str) -> Applied:
    """Paragraphs of the licence page go one by one; the end matter goes from its break (`###`)
    or heading to the end.
    """
    head, tail = text[:_HEAD], max(0, len(text) - _TAIL)
    if not (_NAMED.search(head) or _NAMED.search(text, tail)):
        return Applied(text)
    edits = _licence_page(text) if _NAMED.search(head) else []
    start = _end_matter(text, tail)
    if start is not None and all(edit.end <= start for edit in edits):
        edits.append(Edit(start, len(text)))
    return edited(text, edits)


def _licence_page(text: str) -> list[Edit]:
    """Nothing after the last paragraph that names Smashwords or the licence, and a few
    paragraphs more, is looked at.
    """
    found = [
        (part.start(), part.end(), part.group()) for part in _PARAGRAPH.finditer(text, 0, _HEAD)
    ]
    found = [(start, end, words) for start, end, words in found if end < _HEAD or end == len(text)]
    named = [
        index
        for index, (_, _, words) in enumerate(found)
        if _NAMED.search(words) or "personal enjoyment" in words
    ]
    near = found[: named[-1] + 4] if named else []
    return [
        Edit(start, end)
        for start, end, words in near
        if len(words) <= _LONGEST and _PAGE.search(words)
    ]


def _end_matter(text: str, tail: int) -> int | None:
    """Where the end matter begins: the first break or heading near the end after which nearly
    all is about author and shop.
    """
    marks = [found.start() for found in _BREAK.finditer(text, tail)]
    marks += [
        found.start()
        for found in re.finditer(
            r"^[ \t]*(?:About the Author|ABOUT THE AUTHOR)\b", text[tail:], re.MULTILINE
        )
    ]
    marks = sorted(mark if mark >= tail else mark + tail for mark in marks)
    for mark in marks:
        rest = text[mark:]
        first = "\n".join(line for line in rest.split("\n")[1:] if line.strip())[:400]
        if _SURE.search(rest) and _END_MATTER.search(first + rest[:60]) and text[:mark].strip():
            return mark
    return None


RULE = TextRule(
    "smashwords", "Smashwords' license page and the author's links after the end are removed.",
    remove_smashwords,
)
