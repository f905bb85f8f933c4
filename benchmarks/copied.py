"""How much of a model's text is copied from its training books: at three temperatures, beside
held-out text, shuffled text and training text.

    python benchmarks/copied.py STORE            200 continuations of 60 tokens a temperature
    python benchmarks/copied.py STORE --quick    40

STORE has a finished run with a pre-training (`make run` makes ./store). A prompt is 16 tokens of a
held-out book at a random place. Its own next 60 tokens are the held-out text; the same tokens in
random order are the shuffled text. The share of a text is that of its tokens in spans of 8 or more
that occur in the training books (docs/explanation/tokens.md); the mean and its standard error over
all texts are printed. Exit status 1 when a text of the training books is not copied throughout, or
when shuffled text is copied more than held-out text. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt1.data.ngram_index import NgramIndex, copied
from gpt1.data.shards import Shards
from gpt1.generation import Sampling, generate
from pipeline.results import open_store

PROMPT, LENGTH = 16, 60
TEMPERATURES = (0.0, 0.7, 1.0)


def main() -> int:
    """Run, print a table, one JSON object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("--job", default="pretrain")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    results = open_store(arguments.store)
    train, held_out = results.shards("train"), results.shards("held_out")
    checkpoint, count = results.checkpoint(arguments.job), 40 if arguments.quick else 200
    draw = np.random.default_rng(0)
    windows = random_windows(held_out, count, draw)
    prompts, texts = ([w[at] for w in windows] for at in (slice(PROMPT), slice(PROMPT, None)))
    kinds = {
        "shuffled text": [draw.permutation(text).tolist() for text in texts],
        "held-out text": texts,
        "training text": [w[PROMPT:] for w in random_windows(train, count, draw)],
    }
    for temperature in TEMPERATURES:
        generators = [torch.Generator().manual_seed(n) for n in range(count)]
        kinds[f"temperature {temperature:g}"] = generate(
            checkpoint.model, prompts, LENGTH, Sampling(temperature), generators
        )
    with tempfile.TemporaryDirectory() as folder:
        NgramIndex.build(train, Path(folder, "ngrams"))
        index = NgramIndex(train, Path(folder, "ngrams"))
        shares = {name: share(index, found) for name, found in kinds.items()}
    print(f"{train.tokens:,} training tokens; {count} texts of {LENGTH} tokens each")
    for name, (mean, error) in shares.items():
        print(f"{name:16} {100 * mean:5.1f} % copied, standard error {100 * error:.1f}")
    good = shares["training text"][0] == 1 and shares["shuffled text"] <= shares["held-out text"]
    result: dict[str, Any] = {
        "benchmark": "copied", "quick": arguments.quick, "tokens": train.tokens,
        "shares": shares, "pass": good,
    }  # fmt: skip
    print(json.dumps(result))
    return 0 if good else 1


def random_windows(books: Shards, count: int, draw: np.random.Generator) -> list[list[int]]:
    """`count` windows of a prompt and its text, at random places of all ids; each within a book."""
    long = [ids for ids in books if len(ids) > PROMPT + LENGTH]
    lengths = np.array([len(ids) for ids in long], np.float64)
    found = []
    for book in draw.choice(len(long), count, p=lengths / lengths.sum()):
        start = int(draw.integers(len(long[book]) - PROMPT - LENGTH))
        found.append(long[book][start : start + PROMPT + LENGTH].tolist())
    return found


def share(index: NgramIndex, texts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Mean share of copied tokens, and its standard error."""
    shares = [copied(index.matches(text)) / len(text) for text in texts]
    return statistics.fmean(shares), statistics.stdev(shares) / len(shares) ** 0.5


if __name__ == "__main__":
    sys.exit(main())
