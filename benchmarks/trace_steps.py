"""The steps that `gpt1 trace --text` names, against a training that writes down its batches.

    python benchmarks/trace_steps.py STORE                all steps of the store's pre-training
    python benchmarks/trace_steps.py STORE --steps 500    the first 500, under a minute for the demo

STORE has a finished pre-training (`make run` makes ./store). The order of training does not depend
on the model, so a model of one layer of width 8 is trained by the product's trainer on the store's
shards, with the seed, context and batch size of the store's pre-training, and each micro-batch's
ids are kept. Where a sequence stands in the books is found by comparing its ids with all books.
Then 1,000 random spans of 8 to 40 tokens of the training books are looked up both ways. Exit status
1 when one has other steps, samples or tokens. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.data.shards import Shards
from gpt1.train.config import PretrainConfig, RuntimeConfig
from gpt1.train.engine import MicroBatch
from gpt1.train.trainer import ConsoleReporter, open_pretrainer
from pipeline.cli.lineage import steps_that_read
from pipeline.results import StoreResults, open_store

SPANS = 1000
Reads = list[tuple[int, int, int, int]]
"""Step and sample (both as `gpt1 trace` prints them), and which tokens of a span."""


def main() -> int:
    """Run, print what was compared, one JSON object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("--steps", type=int, default=0, help="0: all")
    arguments = parser.parse_args()
    results = open_store(arguments.store)
    record = results.artifacts.choose("pretrain", ("pretrain",))
    config = PretrainConfig.model_validate(record.settings)
    steps = min(arguments.steps or config.max_steps, config.max_steps)
    shards, began = results.shards("train"), time.perf_counter()
    read = places(shards, batches(results, config, steps))
    seconds, draw = time.perf_counter() - began, np.random.default_rng(0)
    spans = [random_span(shards, draw) for _ in range(SPANS)]
    found = steps_that_read(results.artifacts.store, record, shards, spans)
    wrong = reads = 0
    for span, rows in zip(spans, found, strict=True):
        told = sorted(
            (row["step"], row["sample"], *row["tokens"]) for row in rows if row["step"] <= steps
        )
        reads += len(told)
        wrong += told != logged(read[span[0]], span)
    good = wrong == 0 < reads
    print(
        f"{steps} steps of {config.batch_size} sequences logged in {seconds:.0f} s; {SPANS} spans,"
        f" read {reads} times in all: {wrong} with other steps than logged"
    )
    result = {"benchmark": "trace_steps", "steps": steps, "spans": SPANS, "reads": reads,
              "wrong": wrong, "pass": good}  # fmt: skip
    print(json.dumps(result))
    return 0 if good else 1


def batches(results: StoreResults, config: PretrainConfig, steps: int) -> list[Any]:
    """The ids (B, T + 1) of each step of a training in the order of the store's."""
    shard, store = results.artifacts.choose("shard", ("shard",)).artifact(), results.artifacts.store
    train, held_out = (
        tuple(str(store.fetch(file)) for file in shard.under(f"{name}/"))
        for name in ("train", "held_out")
    )
    small = {"layers": 1, "width": 8, "heads": 1, "init_from": "", "validate_every": 0,
             "validate_sequences": 1, "sample_tokens": 0, "snapshot_every": 0,
             "snapshot_steps": "linear", "checkpoint_every": 0, "max_steps": steps}  # fmt: skip
    changed = PretrainConfig.model_validate({**config.model_dump(mode="json"), **small})
    seen: dict[tuple[int, int], Any] = {}

    def keep(step: int, micro_batch: MicroBatch) -> None:
        seen[step, micro_batch.index] = micro_batch.inputs[0].numpy().copy()

    with tempfile.TemporaryDirectory() as folder:
        vocabulary, books = Path(folder, "vocabulary"), store.fetch(shard.file("books.parquet"))
        results.tokenizer().vocabulary.save(vocabulary)
        runtime = RuntimeConfig(train, held_out, str(books), str(vocabulary), folder, device="cpu")
        pretrainer = open_pretrainer(changed, runtime, ConsoleReporter())
        pretrainer.engine.observer = keep
        pretrainer.train()
    numbers = sorted({step for step, _ in seen})
    parts = config.batch_size // config.micro_batch_size
    return [np.concatenate([seen[step, n] for n in range(parts)]) for step in numbers]


def places(shards: Shards, read: Sequence[Any]) -> dict[int, Reads]:
    """Book by book the sequences read: step, sample, and first and last id in the book."""
    ids = np.concatenate([np.append(book, np.iinfo(book.dtype).max) for book in shards])
    text, size = ids.tobytes(), ids.itemsize
    starts = np.cumsum([0, *(length + 1 for length in shards.lengths)])
    found: dict[int, Reads] = defaultdict(list)
    for step, batch in enumerate(read, 1):
        for sample, sequence in enumerate(batch.astype(ids.dtype)):
            wanted, at = sequence.tobytes(), -1
            while (at := text.find(wanted, at + 1)) >= 0:
                if at % size == 0:
                    book = int(np.searchsorted(starts, at // size, side="right")) - 1
                    first = at // size - int(starts[book])
                    found[book].append((step, sample, first, first + len(sequence)))
    return found


def random_span(shards: Shards, draw: np.random.Generator) -> tuple[int, int, int]:
    """Book, first id and end of 8 to 40 tokens anywhere in the training books."""
    lengths = np.array(shards.lengths, np.float64)
    book, length = draw.choice(len(lengths), p=lengths / lengths.sum()), draw.integers(8, 41)
    start = int(draw.integers(max(1, shards.lengths[book] - length)))
    return int(book), start, min(start + int(length), shards.lengths[book])


def logged(read: Reads, span: tuple[int, int, int]) -> Reads:
    """What the log says of a span, as `gpt1 trace` says it."""
    _, start, end = span
    return sorted(
        (step, sample, max(first, start) - start, min(last, end) - start)
        for step, sample, first, last in read
        if first < end and last > start
    )


if __name__ == "__main__":
    sys.exit(main())
