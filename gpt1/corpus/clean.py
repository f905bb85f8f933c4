"""One book cleaned: the rules of the registry in their order, each counted and measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from gpt1.corpus.document import Document
from gpt1.corpus.rules.registry import BOOK_RULES, DEFAULTS, TEXT_RULES
from gpt1.corpus.rules.rule import Applied, BookRule, TextRule
from gpt1.corpus.text_stats import Size

Switches = Mapping[str, bool | int | float]
_SHOWN = 240
_GAPS = re.compile(r"\n(?:[ \t]*\n){2,}")


@dataclass(frozen=True)
class Sample:
    """What a rule did at one place of a book, shortened."""

    rule: str
    book: str
    before: str
    after: str

    @property
    def order(self) -> bytes:
        """The samples with the smallest hashes are those that are shown: nobody chose them, and
        they stay the same.
        """
        return sha256(
            "\0".join((self.rule, self.book, self.before)).encode("utf-8", "surrogatepass")
        ).digest()


@dataclass(frozen=True)
class Cleaned:
    """A book after cleaning: what each rule did to it, and why it is rejected if it is.

    `strikes` and `changes` have an entry for each rule that changed something, in the order of the
    rules. A rejected book's text is the one it came with.
    """

    book: Document
    before: Size
    after: Size
    strikes: dict[str, int]
    changes: dict[str, Size]
    samples: tuple[Sample, ...] = ()
    rejected: str | None = None
    evidence: str | None = None

    def record(self) -> dict[str, Any]:
        """The book's line in `records/`: which rules touched it, with counts, and sizes before
        and after.
        """
        return {
            "book": self.book.id,
            **{f"{name}_before": value for name, value in vars(self.before).items()},
            **vars(self.after), "rules": self.strikes,
            "changes": {name: size.dict() for name, size in self.changes.items()},
            "rejected": self.rejected, "evidence": self.evidence,
        }


def clean(book: Document, switches: Switches | None = None) -> Cleaned:
    """Apply the rules that are switched on to the whole text of a book.

    `switches`: those that differ from `DEFAULTS`.

    With every text rule off the text stays as it came, to the byte.
    """
    chosen = {**DEFAULTS, **(switches or {})}
    text = book.text
    before = after = Size.of(text)
    strikes: dict[str, int] = {}
    changes: dict[str, Size] = {}
    samples: list[Sample] = []
    for rule in text_rules(book.form):
        if not chosen[rule.name]:
            continue
        done = rule.apply(text)
        if done.text == text:
            continue
        text, after = done.text, after + done.change
        strikes[rule.name], changes[rule.name] = done.strikes, done.change
        samples += _sample(rule.name, book.id, done)
    cleaned = Cleaned(replace(book, text=text), before, after, strikes, changes, tuple(samples))
    for book_rule in book_rules(book.form):
        value = chosen[book_rule.setting]
        if value and (evidence := book_rule.judge(text, value)):
            return replace(cleaned, book=book, rejected=book_rule.name, evidence=evidence)
    return cleaned


def text_rules(form: str) -> Sequence[TextRule]:
    """The rules for a book, or those that make sense for sentences without books around them."""
    return [rule for rule in TEXT_RULES if rule.sentences or form != "sentences"]


def book_rules(form: str) -> Sequence[BookRule]:
    """The same for the rules that reject."""
    return [rule for rule in BOOK_RULES if rule.sentences or form != "sentences"]


def _sample(rule: str, book: str, done: Applied) -> list[Sample]:
    shown = [Sample(rule, book, _short(before), _short(after)) for before, after in done.places]
    return sorted(shown, key=lambda sample: sample.order)[:1]


def _short(text: str) -> str:
    """Beginning and end of what is long, and no more than one blank line at a time."""
    text = _GAPS.sub("\n\n", text)
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN * 2 // 3]} […] {text[-_SHOWN // 3 :]}"
