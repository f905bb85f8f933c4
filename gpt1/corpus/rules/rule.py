"""What a cleaning rule is, and how its effect is measured: words, sentences and bytes."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from typing import Any

_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
# Quantities are bounded: a run of a million full stops must not be scanned a million times.
_SENTENCE_END = re.compile(
    r"""[.!?…](?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)[.!?…"'”’)\]_*]{0,8}\s{1,9}"""
    r"""(?=["'“‘(\[_*]{0,3}[A-Z0-9])"""
)
_BETWEEN_SENTENCES = re.compile(rf"{_SENTENCE_END.pattern}|\n[ \t\r]*\n\s*")
_CONTEXT = 40
PLACES = 16
"""Most places of a text that a rule keeps to be shown."""


@dataclass(frozen=True)
class Size:
    """The size of a text, or the difference of two."""

    words: int = 0
    sentences: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, text: str) -> Size:
        """Words between white space; bytes of UTF-8; sentences.

        Sentences: a paragraph (between blank lines) ends one, and so does a run of `. ! ? …` with
        any closing quotes, followed by white space and a capital letter or a digit with any opening
        quotes; not after Mr., Mrs., Dr. and St.
        """
        number = sum(1 + len(_SENTENCE_END.findall(part)) for part in _paragraphs(text))
        return cls(len(text.split()), number, len(text.encode("utf-8", "surrogatepass")))

    def __add__(self, other: Size) -> Size:
        return Size(*(value + getattr(other, name) for name, value in vars(self).items()))

    def __sub__(self, other: Size) -> Size:
        return Size(*(value - getattr(other, name) for name, value in vars(self).items()))


NONE = Size()


def sentences(text: str) -> Iterator[str]:
    """The sentences of `Size.of`, in order."""
    for paragraph in _paragraphs(text):
        yield from _SENTENCE_END.split(paragraph)


def shuffle_sentences(text: str, one_a_line: bool = False) -> str:
    """The sentences of `Size.of`, or the lines, in a random order that the text's digest decides.

    The white space between them stays where it is: each paragraph keeps its number of sentences and
    the text its line breaks; one within a sentence moves with it.
    """
    text, gap = text.strip(), re.compile(r"\n\s*") if one_a_line else _BETWEEN_SENTENCES
    gaps = [(found.start() + len(found[0].rstrip()), found.end()) for found in gap.finditer(text)]
    starts, ends = [0, *(end for _, end in gaps)], [*(start for start, _ in gaps), len(text)]
    found = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    random.Random(digest).shuffle(found)
    spaces = [*(text[start:end] for start, end in gaps), ""]
    return "".join(chain.from_iterable(zip(found, spaces, strict=True)))


def _paragraphs(text: str) -> Iterator[str]:
    return (part for part in _BLANK_LINE.split(text) if part and not part.isspace())


@dataclass(frozen=True)
class Edit:
    """The characters from `start` to `end` of a text give way to `new`.

    Edits of one step are ordered and do not overlap.
    """

    start: int
    end: int
    new: str = ""


@dataclass(frozen=True)
class Applied:
    """A text after a rule: how often the rule struck, what the size changed by, and places that
    may be shown, (before, after).

    `note` says what the rule found and left alone because it fits no form that the rule knows.
    """

    text: str
    strikes: int = 0
    change: Size = NONE
    places: Sequence[tuple[str, str]] = ()
    note: str | None = None


Step = Callable[[str], "Iterable[Edit] | Applied"]
"""A function of a text that takes linear time: edits, or the changed text itself."""


@dataclass(frozen=True)
class TextRule:
    """A rule that changes text, by steps of which each sees what the last one left.

    `sentences`: whether it also applies to data sets of one sentence a line (`Document.form`).
    """

    name: str
    description: str
    steps: tuple[Step, ...]
    sentences: bool = False

    def apply(self, text: str) -> Applied:
        """The text after all steps, with what they did to it."""
        return chained(text, *self.steps)


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


def matches(
    pattern: re.Pattern[str], text: str, new: str | Callable[[re.Match[str]], str] = "",
    start: int = 0, end: int | None = None,
) -> Iterator[Edit]:
    """An edit for each match between `start` and `end`; none where `new` is what is there."""
    for found in pattern.finditer(text, start, len(text) if end is None else end):
        replacement = new if isinstance(new, str) else new(found)
        if replacement != found.group():
            yield Edit(found.start(), found.end(), replacement)


def replacing(pattern: re.Pattern[str], new: str | Callable[[re.Match[str]], str] = "") -> Step:
    """A step: every match of `pattern` gives way to `new`."""
    return lambda text: matches(pattern, text, new)


def changed(text: str, done: str, strikes: int, places: Sequence[tuple[str, str]]) -> Applied:
    """What a step did that changes a text throughout: `done` is the text after it."""
    if done == text:
        return Applied(text)
    return Applied(done, strikes, Size.of(done) - Size.of(text), places)


def chained(text: str, *steps: Step) -> Applied:
    """The text after these steps, one after another, with what all of them did."""
    strikes, change, note = 0, NONE, None
    places: list[tuple[str, str]] = []
    for step in steps:
        made = step(text)
        done = made if isinstance(made, Applied) else edited(text, made)
        text, strikes, change = done.text, strikes + done.strikes, change + done.change
        places += done.places
        note = note or done.note
    return Applied(text, strikes, change, places, note)


def edited(text: str, edits: Iterable[Edit]) -> Applied:
    """Make the edits, and measure what they changed by looking only at their paragraphs."""
    chosen = list(edits)
    if not chosen:
        return Applied(text)
    stride = -(-len(chosen) // PLACES)
    places = [_place(text, edit) for edit in chosen[::stride]]
    return Applied(
        _spliced(text, 0, len(text), chosen), len(chosen), _change(text, chosen), places
    )


def _spliced(text: str, start: int, end: int, edits: Iterable[Edit]) -> str:
    """`text[start:end]` with the edits in it made."""
    pieces: list[str] = []
    for edit in edits:
        pieces += (text[start : edit.start], edit.new)
        start = edit.end
    return "".join([*pieces, text[start:end]])


def _place(text: str, edit: Edit) -> tuple[str, str]:
    start, end = max(0, edit.start - _CONTEXT), edit.end + _CONTEXT
    return text[start:end], _spliced(text, start, end, [edit])


def _change(text: str, edits: Sequence[Edit]) -> Size:
    """The size after less the size before.

    Each stretch between blank lines is measured once, so the time is linear.
    """
    total = NONE
    done = index = 0
    while index < len(edits):
        start = text.rfind("\n\n", done, edits[index].start)
        start = done if start < 0 else start + 2
        first, end = index, -1
        while index < len(edits) and (end < 0 or edits[index].start <= end):
            if edits[index].end > end:
                found = text.find("\n\n", edits[index].end)
                end = len(text) if found < 0 else found
            index += 1
        after = _spliced(text, start, end, edits[first:index])
        total += Size.of(after) - Size.of(text[start:end])
        done = end
    return total
