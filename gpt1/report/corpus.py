"""What the report says of the books: how many came in, what was kept, what was rejected by which
rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.report.sources import Source, only

_FACTS = (
    ("ingest", "books", "books read"), ("ingest", "files", "files read"),
    ("ingest", "authors", "authors"), ("ingest", "words", "words read"),
    ("clean", "books", "books kept after cleaning"), ("clean", "words", "words after cleaning"),
    ("split", "train_books", "training books"), ("split", "held_out_books", "held-out books"),
    ("split", "duplicate_books", "copies skipped"),
    ("vocabulary", "vocabulary", "tokens in the vocabulary"),
    ("vocabulary", "merges", "merges learned"), ("shard", "train_tokens", "training tokens"),
    ("shard", "held_out_tokens", "held-out tokens"),
)


def corpus_facts(sources: Sequence[Source]) -> dict[str, Any]:
    """`figures`: [stage, name, label, value] for each figure there is; `rejected` and `rules`:
    counts by rule.

    `audit`: what the audit stage wrote; empty in a workflow without one.
    """
    figures = [
        {"stage": stage, "name": name, "label": label, "value": value}
        for stage, name, label in _FACTS
        if (value := only(sources, stage).fact(name, "shards.json")) is not None
    ]
    clean = only(sources, "clean").summary
    return {
        "figures": figures, "rejected": _counts(clean.get("rejected")),
        "rules": _counts(clean.get("rules")),
        "audit": only(sources, "audit").document("audit.json"),
    }


def figure(facts: Mapping[str, Any], stage: str, name: str) -> Any:
    """One of the figures; None where the workflow has none."""
    return next(
        (row["value"] for row in facts["figures"] if (row["stage"], row["name"]) == (stage, name)),
        None,
    )


def _counts(table: Any) -> dict[str, int]:
    return dict(sorted(table.items())) if isinstance(table, Mapping) else {}
