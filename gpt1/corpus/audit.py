"""The audit: what came in, what each rule and each decision took away, what is left to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt1.corpus.audit_counts import HELD_OUT, TRAIN, Counts
from gpt1.corpus.rules.registry import BOOK_RULES, TEXT_RULES
from gpt1.corpus.text_stats import NONE, Size

PUBLISHED = {
    "source": "BooksCorpus as published (Zhu et al. 2015)",
    "books": 11_038,
    "unique_books": 7_185,  # Bandy & Vincent 2021
    "sentences": 74_004_228,
    "words": 984_846_357,
    "unique_words": 1_316_420,
}
"""The figures of Zhu et al. (2015)."""
SENTENCE = (
    "A sentence ends with its paragraph, or at . ! ? … with closing quotes before white space and a"
    " capital letter or digit, except after Mr., Mrs., Dr. or St."
)
_LONGEST = 120
"""Sentences of more words than this share one row."""


@dataclass(frozen=True)
class Step:
    """One row of the table: what a step changed, and what is there after it.

    `kind`: `in`, `rule` (changes text), `off` (switched off), `reject` (whole books), `copy`,
    `aside` (not trained on), `out`.
    """

    name: str
    kind: str
    description: str
    touched: int
    strikes: int
    change: Size
    books: int
    after: Size

    def row(self) -> dict[str, Any]:
        """The row as plain values."""
        changed = {f"{name}_change": value for name, value in vars(self.change).items()}
        plain = {key: value for key, value in vars(self).items() if key not in ("change", "after")}
        return {**plain, **changed, **vars(self.after)}


class Ledger:
    """Steps added one after another; each begins where the last ended."""

    def __init__(self, books: int, size: Size) -> None:
        self.steps = [Step("ingest", "in", "Books as read.", books, 0, NONE, books, size)]

    def add(
        self, name: str, kind: str, description: str, change: Size, touched: int, strikes: int = 0,
        gone: int = 0,
    ) -> None:
        """A step that touched some books, of which `gone` are gone after it."""
        last = self.steps[-1]
        after = last.after + change
        self.steps.append(
            Step(name, kind, description, touched, strikes, change, last.books - gone, after)
        )


def ledger(
    records: Sequence[Mapping[str, Any]], split: Mapping[str, Mapping[str, Any]], trained: Counts,
    switches: Mapping[str, Any],
) -> list[Step]:
    """The table's rows.

    `records`: the cleaner's, of all books; `split`: rows of split.parquet by book; `switches`:
    settings.
    """
    book = Ledger(len(records), _total(_size(row, "_before") for row in records))
    for rule in TEXT_RULES:
        touched = [row for row in records if rule.name in row["changes"]]
        kind = "rule" if switches.get(rule.name, True) else "off"
        change = _total(Size(**row["changes"][rule.name]) for row in touched)
        book.add(
            rule.name, kind, rule.description, change, len(touched),
            sum(row["rules"][rule.name] for row in touched),
        )
    for judge in BOOK_RULES:
        gone = [row for row in records if row["rejected"] == judge.name]
        kind = "reject" if switches.get(judge.setting, judge.default) else "off"
        book.add(
            judge.name, kind, judge.description, NONE - _sum(gone), len(gone), len(gone), len(gone)
        )
    kept = [row for row in records if not row["rejected"]]
    for name in sorted({row["set"] for row in split.values()} - {TRAIN, HELD_OUT}):
        gone = [row for row in kept if split[row["book"]]["set"] == name]
        book.add(
            name, "copy", f"Books marked `{name}` by the split.", NONE - _sum(gone), len(gone),
            len(gone), len(gone),
        )
    out = [row for row in kept if split[row["book"]]["set"] == HELD_OUT]
    book.add(
        HELD_OUT, "aside", "Complete books kept for validation.", NONE - _sum(out), len(out),
        len(out), len(out),
    )
    tails = sum(row.get("tail_start") is not None for row in split.values() if row["set"] == TRAIN)
    book.add(
        "tails", "aside", "Tails of training books, never trained on.",
        trained.size - book.steps[-1].after, tails, tails,
    )
    book.add("train", "out", "Text to train on.", NONE, trained.books)
    return book.steps


def document(
    steps: Sequence[Step], trained: Counts, records: Sequence[Mapping[str, Any]],
    split: Mapping[str, Mapping[str, Any]], samples: Sequence[Mapping[str, str]], top: int,
) -> dict[str, Any]:
    """audit.json: `steps`, `published`, `trained`, `sentences`, `words`, `samples`, `rejected`,
    `copies`.
    """
    total = trained.words.total()
    ranked = sorted(trained.words.items(), key=lambda item: (-item[1], item[0]))[:top]
    rejected = [
        {
            "book": row["book"], "rule": row["rejected"], "evidence": row["evidence"],
            "words": row["words"],
        }
        for row in records
        if row["rejected"]
    ]
    copies = [
        {"book": book, "set": row["set"], "copy_of": row.get("copy_of")}
        for book, row in sorted(split.items())
        if row["set"] not in (TRAIN, HELD_OUT)
    ]
    return {
        "steps": [step.row() for step in steps],
        "published": PUBLISHED,
        "trained": {
            "books": trained.books, **vars(trained.size), "unique_words": len(trained.words),
        },
        "sentences": {"rule": SENTENCE, **_lengths(trained.lengths)},
        "words": [
            {"word": word, "count": number, "share": round(number / total, 6)}
            for word, number in ranked
        ],
        "samples": list(samples),
        "rejected": sorted(rejected, key=lambda row: (row["rule"], row["book"])),
        "copies": copies,
    }


def _size(row: Mapping[str, Any], suffix: str = "") -> Size:
    return Size(*(row[f"{name}{suffix}"] for name in ("words", "sentences", "bytes")))


def _sum(rows: Iterable[Mapping[str, Any]]) -> Size:
    return _total(_size(row) for row in rows)


def _total(sizes: Iterable[Size]) -> Size:
    return sum(sizes, NONE)


def _lengths(lengths: Counter[int]) -> dict[str, Any]:
    """Mean, quantiles and the whole distribution; the longest sentences share the last row."""
    number = lengths.total()
    quantiles: dict[str, int] = {}
    passed = 0
    wanted = [
        ("p5", 0.05), ("p25", 0.25), ("median", 0.5), ("p75", 0.75), ("p95", 0.95), ("p99", 0.99),
    ]
    for words in sorted(lengths):
        passed += lengths[words]
        while wanted and passed >= wanted[0][1] * number:
            quantiles[wanted.pop(0)[0]] = words
    rows: Counter[int] = Counter()
    for words, many in lengths.items():
        rows[min(words, _LONGEST + 1)] += many
    mean = round(sum(words * many for words, many in lengths.items()) / max(1, number), 3)
    distribution = [{"words": words, "sentences": rows[words]} for words in sorted(rows)]
    return {
        "number": number, "mean": mean, **quantiles, "longest": max(lengths, default=0),
        "distribution": distribution,
    }
