"""One book cleaned: the rules of the registry in their order, each counted and measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import pyarrow as pa

from gpt1.corpus.document import Document
from gpt1.corpus.parquet_io import BOOKS
from gpt1.corpus.rules.registry import BOOK_RULES, DEFAULTS, TEXT_RULES
from gpt1.corpus.rules.rule import Size

REJECTED = pa.schema([pa.field("rule", pa.string()), pa.field("evidence", pa.string()), *BOOKS])
"""The columns of rejected books: the rule, its evidence, and the book as it came."""
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
        key = "\0".join((self.rule, self.book, self.before))
        return sha256(key.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Cleaned:
    """A book after cleaning: what each rule did to it, and why it is rejected if it is.

    `strikes` and `changes` have an entry for each rule that changed something, in the order of the
    rules; `notes` for each that found what it does not know and left it. A rejected book's text is
    the one it came with.
    """

    book: Document
    before: Size
    after: Size
    strikes: dict[str, int]
    changes: dict[str, Size]
    samples: tuple[Sample, ...] = ()
    notes: dict[str, str] = field(default_factory=dict)
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
            "changes": {name: vars(size) for name, size in self.changes.items()},
            **({"notes": self.notes} if self.notes else {}),
            "rejected": self.rejected, "evidence": self.evidence,
        }  # fmt: skip

    def rejected_row(self) -> dict[str, Any]:
        """The book's row of REJECTED."""
        return {"rule": self.rejected, "evidence": self.evidence, **vars(self.book)}


def clean(book: Document, switches: Mapping[str, bool | int | float] | None = None) -> Cleaned:
    """Apply the rules that are switched on to the complete text of a book.

    `switches`: those that differ from `DEFAULTS`. With every text rule off the text stays as it
    came, to the byte. Sentences without books around them (`Document.form`) get fewer rules.
    """
    chosen = {**DEFAULTS, **(switches or {})}
    text, size = book.text, Size.of(book.text)
    cleaned = Cleaned(book, size, size, {}, {})
    samples: list[Sample] = []
    for rule in TEXT_RULES:
        if not chosen[rule.name] or (book.form == "sentences" and not rule.sentences):
            continue
        done = rule.apply(text)
        if done.note:
            cleaned.notes[rule.name] = done.note
        if done.text != text:
            text, size = done.text, size + done.change
            cleaned.strikes[rule.name], cleaned.changes[rule.name] = done.strikes, done.change
            shown = [Sample(rule.name, book.id, *map(_shorten, place)) for place in done.places]
            samples += sorted(shown, key=lambda sample: sample.order)[:1]
    cleaned = replace(cleaned, book=replace(book, text=text), after=size, samples=tuple(samples))
    for judge in BOOK_RULES:
        value = chosen[judge.setting]
        if not value or (book.form == "sentences" and not judge.sentences):
            continue
        if evidence := judge.judge(text, value):
            return replace(cleaned, book=book, rejected=judge.name, evidence=evidence)
    return cleaned


def _shorten(text: str) -> str:
    """Beginning and end of what is long, and no more than one blank line at a time."""
    text = _GAPS.sub("\n\n", text)
    if len(text) <= _SHOWN:
        return text
    return f"{text[: _SHOWN * 2 // 3]} […] {text[-_SHOWN // 3 :]}"
