"""Joining the lines of hard-wrapped paragraphs, and leaving verse, headings and lists alone."""

from __future__ import annotations

import re
from statistics import quantiles

from gpt1.corpus.rules.rule import Applied, TextRule
from gpt1.corpus.text_stats import Size

_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_FEWEST_LINES = 20
_NARROWEST, _WIDEST = 30, 120
_SLACK = 0.85
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+\n?")


def join_lines(text: str) -> tuple[str, int]:
    """The text with hard-wrapped lines joined by a space, and how many were.

    A line was wrapped, and did not end by intent, when the first word of the next would not have
    fitted any more. What fits is judged by the book's own width: the length that nine in ten of the
    lines inside paragraphs do not exceed, with a slack of 15 %. A book whose lines are as long as
    paragraphs was not wrapped and stays as it is.
    """
    paragraphs = [paragraph.split("\n") for paragraph in _PARAGRAPHS.split(text)]
    width = _width(paragraphs)
    if width is None:
        return text, 0
    joined = 0
    done: list[str] = []
    marked = _breaks_are_marked(paragraphs)
    for lines in paragraphs:
        paragraph, number = _join(lines, width * _SLACK, marked)
        done.append(paragraph)
        joined += number
    return "\n\n".join(paragraph for paragraph in done if paragraph), joined


def _width(paragraphs: list[list[str]]) -> float | None:
    """The width the lines were wrapped to, or None when they were not."""
    lengths = [len(line.strip()) for lines in paragraphs for line in lines[:-1] if line.strip()]
    if len(lengths) < _FEWEST_LINES:
        return None
    width = quantiles(lengths, n=10)[-1]
    return width if _NARROWEST <= width <= _WIDEST else None


def _breaks_are_marked(paragraphs: list[list[str]]) -> bool:
    """Whether two spaces at a line's end are Markdown's sign for a break that is meant.

    Not where most lines inside paragraphs end so, unless the prose around them is not wrapped at
    all.
    """
    inner = [line for lines in paragraphs for line in lines[:-1]]
    if 2 * sum(line.endswith("  ") for line in inner) < len(inner):
        return True
    unwrapped = sum(
        len(lines[0]) for lines in paragraphs if len(lines) == 1 and len(lines[0]) > _WIDEST
    )
    return unwrapped > sum(len(line) for line in inner)


def _join(lines: list[str], room: float, marked: bool) -> tuple[str, int]:
    parts = [lines[0].strip()]
    joined = 0
    for raw, line in zip(lines, (line.strip() for line in lines[1:]), strict=False):
        before = raw.strip()
        first = line.split(maxsplit=1)[0] if line else ""
        meant = marked and raw.endswith("  ")
        if meant or not before or not line or len(before) + 1 + len(first) <= room:
            parts.append(f"\n{line}")
            continue
        hyphen = before.endswith("-") and not before.endswith("--") and first[:1].islower()
        parts.append(line if hyphen else f" {line}")
        joined += 1
    return "".join(parts).strip(), joined


def join(text: str) -> Applied:
    """Lines joined; then runs of blank lines become one, and the text is stripped.

    A strike is a line joined to the one before.
    """
    joined, strikes = join_lines(text)
    done = _BLANK_LINES.sub("\n\n", joined).strip()
    if done == text:
        return Applied(text)
    return Applied(
        done, strikes, Size.of(done) - Size.of(text), _places(text, done) if strikes else ()
    )


def _places(text: str, done: str) -> list[tuple[str, str]]:
    """The beginnings of paragraphs that were one of several lines and are one of fewer."""
    places = []
    for paragraph in (part.strip() for part in _PARAGRAPHS.split(text[len(text) // 3 :])[1:60]):
        found = done.find(" ".join(paragraph.split("\n")[0].split())) if "\n" in paragraph else -1
        if found >= 0:
            places.append((paragraph[:200], done[found : found + 200].split("\n\n")[0]))
    return places[:16]


RULE = TextRule(
    "join_lines",
    "The lines of hard-wrapped paragraphs are joined and runs of blank lines become one.", join,
)
