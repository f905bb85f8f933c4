"""Joining the lines of hard-wrapped paragraphs, and leaving verse, headings and lists alone."""

from __future__ import annotations

import re
from statistics import quantiles

_PARAGRAPHS = re.compile(r"\n[ \t]*\n\s*")
_FEWEST_LINES = 20
_NARROWEST, _WIDEST = 30, 120
_SLACK = 0.85


def join_lines(text: str) -> tuple[str, int]:
    """The text with hard-wrapped lines joined by a space, and how many were.

    A line was wrapped, and did not end by intent, when the first word of the next would not have fitted any more. What fits is
    judged by the book's own width: the length that nine in ten of the lines inside paragraphs do not exceed, with a slack of 15 %.
    A book whose lines are as long as paragraphs was not wrapped and stays as it is.
    """
    paragraphs = [paragraph.split("\n") for paragraph in _PARAGRAPHS.split(text)]
    width = _width(paragraphs)
    if width is None:
        return text, 0
    joined = 0
    done: list[str] = []
    for lines in paragraphs:
        paragraph, number = _join(lines, width * _SLACK)
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


def _join(lines: list[str], room: float) -> tuple[str, int]:
    parts = [lines[0].strip()]
    joined = 0
    for before, line in zip((line.strip() for line in lines), (line.strip() for line in lines[1:]), strict=False):
        first = line.split(maxsplit=1)[0] if line else ""
        if not before or not line or len(before) + 1 + len(first) <= room:
            parts.append(f"\n{line}")
            continue
        hyphen = before.endswith("-") and not before.endswith("--") and first[:1].islower()
        parts.append(line if hyphen else f" {line}")
        joined += 1
    return "".join(parts).strip(), joined
