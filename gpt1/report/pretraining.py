"""What the report says of pre-training: the final figures of each cell beside the n-gram models
of the same shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.report.sources import Source, of_kind, only

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
PERPLEXITY = "validation_perplexity"
PAPER_PERPLEXITY = (
    18.4  # "on this corpus", section 4.1; the paper does not say that it was held out
)


def pretraining_facts(sources: Sequence[Source]) -> dict[str, Any]:
    """The n-gram perplexities of the held-out shards, and a row for each pre-training cell."""
    shard = only(sources, "shard")
    unigram, bigram = (
        shard.fact("unigram_perplexity", "shards.json"),
        shard.fact("bigram_perplexity", "shards.json"),
    )
    return {
        "unigram_perplexity": unigram,
        "bigram_perplexity": bigram,
        "tokens": {
            name: shard.fact(f"{name}_tokens", "shards.json") for name in ("train", "held_out")
        },
        "unknown_share": shard.fact("unknown_rate", "shards.json"),
        "cells": [_cell(source, unigram, bigram) for source in of_kind(sources, "pretrain")],
    }


def _cell(source: Source, unigram: float | None, bigram: float | None) -> dict[str, Any]:
    rows = source.rows(METRICS)
    held_out = series(rows, PERPLEXITY)
    final = held_out[-1][1] if held_out else None
    return {
        "cell": source.cell, "parameters": source.fact("parameters"),
        "updates": rows[-1]["step"] if rows else None, "tokens": source.fact("tokens"),
        "epochs": source.fact("epochs"), "held_out_perplexity": final,
        "share_of_unigram": final / unigram if final and unigram else None,
        "share_of_bigram": final / bigram if final and bigram else None,
        "train_loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
        "curve": [{"step": step, "perplexity": value} for step, value in held_out],
    }


def series(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """The (step, value) pairs of the rows that have `name`."""
    return [(int(row["step"]), float(row[name])) for row in rows if row.get(name) is not None]


def samples(source: Source, points: int) -> list[dict[str, Any]]:
    """At most `points` steps, evenly spread from the first to the last: [{"step": ..., "texts":
    [{"prompt", "text"}]}].
    """
    rows = source.rows(SAMPLES)
    steps = list(dict.fromkeys(int(row["step"]) for row in rows))
    if len(steps) > points:
        steps = [steps[round(n * (len(steps) - 1) / (points - 1))] for n in range(points)]
    return [
        {"step": step, "texts": [_sample(row) for row in rows if int(row["step"]) == step]}
        for step in steps
    ]


def _sample(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: _one_line(str(row.get(name, ""))) for name in ("prompt", "text")}


def _one_line(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())
