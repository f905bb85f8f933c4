"""What a rule is: a name, a sentence that says what it does, and a function that must take
linear time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt1.corpus.text_stats import NONE, Size

_CONTEXT = 40
_CANDIDATES = 16


@dataclass(frozen=True)
class Edit:
    """The characters from `start` to `end` of a text give way to `new`.

    Edits of one rule are ordered and do not overlap.
    """

    start: int
    end: int
    new: str = ""


@dataclass(frozen=True)
class Applied:
    """A text after a rule: how often the rule struck, what the size changed by, and places that
    may be shown, (before, after).
    """

    text: str
    strikes: int = 0
    change: Size = NONE
    places: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class TextRule:
    """A rule that changes text.

    `sentences`: whether it also applies to data sets of one sentence a line (`Document.form`).
    """

    name: str
    description: str
    apply: Callable[[str], Applied]
    sentences: bool = False


@dataclass(frozen=True)
class BookRule:
    """A rule that rejects whole books.

    `judge(text, value)` returns its evidence, or None for a book that stays.

    `setting` is the name of its switch, `default` the switch's value; the value that turns the rule
    off is False or 0.
    """

    name: str
    description: str
    setting: str
    default: bool | int | float
    judge: Callable[[str, Any], str | None]
    limits: Mapping[str, Any] = field(default_factory=dict)
    sentences: bool = False


def edited(text: str, edits: Iterable[Edit]) -> Applied:
    """Make the edits, and measure what they changed by looking only at the paragraphs they lie
    in.
    """
    chosen = list(edits)
    if not chosen:
        return Applied(text)
    pieces: list[str] = []
    at = 0
    for edit in chosen:
        pieces += (text[at : edit.start], edit.new)
        at = edit.end
    pieces.append(text[at:])
    stride = -(-len(chosen) // _CANDIDATES)
    places = [_place(text, edit) for edit in chosen[::stride]]
    return Applied("".join(pieces), len(chosen), _change(text, chosen), places)


def chained(text: str, *steps: Callable[[str], Applied]) -> Applied:
    """One rule made of several steps."""
    strikes, change = 0, NONE
    places: list[tuple[str, str]] = []
    for step in steps:
        done = step(text)
        text, strikes, change = done.text, strikes + done.strikes, change + done.change
        places += done.places
    return Applied(text, strikes, change, places)


def _place(text: str, edit: Edit) -> tuple[str, str]:
    before, after = (
        text[max(0, edit.start - _CONTEXT) : edit.start],
        text[edit.end : edit.end + _CONTEXT],
    )
    return before + text[edit.start : edit.end] + after, before + edit.new + after


def _change(text: str, edits: Sequence[Edit]) -> Size:
    """The size after less the size before.

    Each stretch between blank lines is measured once, so the time is linear.
    """
    total = NONE
    index = 0
    done = 0
    while index < len(edits):
        start = text.rfind("\n\n", done, edits[index].start)
        start = done if start < 0 else start + 2
        pieces: list[str] = []
        at, end = start, -1
        while index < len(edits) and (end < 0 or edits[index].start <= end):
            edit = edits[index]
            pieces += (text[at : edit.start], edit.new)
            at = edit.end
            if at > end:
                found = text.find("\n\n", at)
                end = len(text) if found < 0 else found
            index += 1
        pieces.append(text[at:end])
        total += Size.of("".join(pieces)) - Size.of(text[start:end])
        done = end
    return total
