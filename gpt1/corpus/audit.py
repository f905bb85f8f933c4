"""The audit: what came in, what each rule and each decision took away, what is left to train on."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt1.corpus.clean import BOOK_RULES, TEXT_RULES, Sample
from gpt1.corpus.document import Document
from gpt1.corpus.rules.rule import NONE, Size, sentences

TRAIN, HELD_OUT = "train", "held_out"
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
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_LONGEST = 120
"""Sentences of more words than this share one row."""
_QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}


@dataclass
class Counts:
    """Of the texts trained on: `books`, their `size`, `lengths` (words in a sentence -> sentences),
    `words` in lower case.
    """

    books: int = 0
    size: Size = NONE
    lengths: Counter[int] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        """Count one text."""
        self.books += 1
        self.size += Size.of(text)
        self.lengths.update(len(sentence.split()) for sentence in sentences(text))
        self.words.update(_WORD.findall(text.lower()))


def count(
    books: Iterable[Document], rows: Sequence[tuple[str, str, int | None, int]]
) -> Counts:
    """Count the training books of a part, each up to its unseen tail.

    `rows`: of each book its id, set and tail by split.parquet, and its bytes as the cleaner
    recorded them. RuntimeError when a text is not of that size: the audit would not be one of these
    texts.
    """
    counts = Counts()
    by_book = {row[0]: row[1:] for row in rows}
    for book in books:
        chosen, tail_start, size = by_book[book.id]
        found = len(book.text.encode("utf-8", "surrogatepass"))
        if found != size:
            raise RuntimeError(f"{book.id}: {found} bytes; the cleaner recorded {size}")
        if chosen == TRAIN:
            counts.add(book.text[:tail_start])
    return counts


def steps(
    records: Sequence[Mapping[str, Any]], split: Mapping[str, Mapping[str, Any]], trained: Counts,
    switches: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The table's rows: what each step changed, and what is there after it.

    `kind`: `in`, `rule` (changes text), `off` (switched off), `reject` (whole books), `copy`,
    `aside` (not trained on), `out`. Each row begins where the last ended.

    `records`: the cleaner's, of all books; `split`: rows of split.parquet by book; `switches`:
    settings.
    """
    rows: list[dict[str, Any]] = []
    books, size = len(records), _total(records, "_before")

    def add(
        name: str, kind: str, description: str, change: Size, touched: int, strikes: int = 0,
        gone: int = 0,
    ) -> None:
        nonlocal books, size
        books, size = books - gone, size + change
        rows.append(
            {
                "name": name, "kind": kind, "description": description, "touched": touched,
                "strikes": strikes, "books": books,
                **{f"{measure}_change": value for measure, value in vars(change).items()},
                **vars(size),
            }
        )  # fmt: skip

    def leave(name: str, kind: str, description: str, left: Sequence[Mapping[str, Any]]) -> None:
        add(name, kind, description, NONE - _total(left), *[len(left)] * 3)

    add("ingest", "in", "Books as read.", NONE, books)
    for rule in TEXT_RULES:
        touched = [row for row in records if rule.name in row["changes"]]
        change = sum((Size(**row["changes"][rule.name]) for row in touched), NONE)
        kind = "rule" if switches.get(rule.name, True) else "off"
        strikes = sum(row["rules"][rule.name] for row in touched)
        add(rule.name, kind, rule.description, change, len(touched), strikes)
    for judge in BOOK_RULES:
        kind = "reject" if switches.get(judge.setting, judge.default) else "off"
        rejected = [row for row in records if row["rejected"] == judge.name]
        leave(judge.name, kind, judge.description, rejected)
    sets: dict[str, list[Mapping[str, Any]]] = {HELD_OUT: []}
    for row in records:
        if not row["rejected"]:
            sets.setdefault(split[row["book"]]["set"], []).append(row)
    for name in sorted(sets.keys() - {TRAIN, HELD_OUT}):
        leave(name, "copy", f"Books marked `{name}` by the split.", sets[name])
    leave(HELD_OUT, "aside", "Complete books kept for validation.", sets[HELD_OUT])
    tails = sum(row.get("tail_start") is not None for row in split.values() if row["set"] == TRAIN)
    description = "Tails of training books, never trained on."
    add("tails", "aside", description, trained.size - size, tails, tails)
    add("train", "out", "Text to train on.", NONE, trained.books)
    return rows


def document(
    rows: Sequence[Mapping[str, Any]], trained: Counts, records: Sequence[Mapping[str, Any]],
    split: Mapping[str, Mapping[str, Any]], samples: Sequence[Sample], top: int,
) -> dict[str, Any]:
    """audit.json: `steps` (the rows), `published`, `trained`, `sentences`, the `top` most frequent
    `words`, `samples`, `rejected`, `copies`.
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
    ]  # fmt: skip
    return {
        "steps": list(rows),
        "published": PUBLISHED,
        "trained": {
            "books": trained.books, **vars(trained.size), "unique_words": len(trained.words),
        },
        "sentences": {"rule": SENTENCE, **_distribution(trained.lengths)},
        "words": [
            {"word": word, "count": number, "share": round(number / total, 6)}
            for word, number in ranked
        ],
        "samples": [vars(sample) for sample in samples],
        "rejected": sorted(rejected, key=lambda row: (row["rule"], row["book"])),
        "copies": [
            {"book": book, "set": row["set"], "copy_of": row.get("copy_of")}
            for book, row in sorted(split.items())
            if row["set"] not in (TRAIN, HELD_OUT)
        ],
    }  # fmt: skip


def chosen_samples(samples: Sequence[Sample], number: int) -> list[Sample]:
    """Of each rule the samples with the smallest hashes, one a book, in the order of the rules."""
    chosen = []
    for rule in TEXT_RULES:
        found: dict[str, Sample] = {}
        for sample in sorted(samples, key=lambda sample: sample.order):
            if sample.rule == rule.name:
                found.setdefault(sample.book, sample)
        chosen += list(found.values())[:number]
    return chosen


def _total(rows: Iterable[Mapping[str, Any]], suffix: str = "") -> Size:
    sizes = (Size(*(row[f"{name}{suffix}"] for name in vars(NONE))) for row in rows)
    return sum(sizes, NONE)


def _distribution(lengths: Counter[int]) -> dict[str, Any]:
    """Mean, quantiles and the complete distribution; the longest sentences share the last row."""
    number = lengths.total()
    quantiles: dict[str, int] = {}
    rows: Counter[int] = Counter()
    passed = 0
    for words, count in sorted(lengths.items()):
        passed += count
        rows[min(words, _LONGEST + 1)] += count
        for name, share in _QUANTILES.items():
            if passed >= share * number:
                quantiles.setdefault(name, words)
    mean = round(sum(words * count for words, count in lengths.items()) / max(1, number), 3)
    return {
        "number": number, "mean": mean, **quantiles, "longest": max(lengths, default=0),
        "distribution": [{"words": words, "sentences": rows[words]} for words in sorted(rows)],
    }  # fmt: skip
