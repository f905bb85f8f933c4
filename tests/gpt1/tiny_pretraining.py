"""A pre-training small enough for tests: real shards of made-up books, a real vocabulary, real ranks under torchrun."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt1.data.books_table import BookSpan, write_spans
from gpt1.data.shard_file import id_type, write_shard
from gpt1.model.config import ModelConfig
from gpt1.text.vocabulary import Vocabulary
from gpt1.train.pretrain_config import DEEPSPEED_FOLDER, Place, PretrainConfig, Prompt, to_json
from tests.conftest import ROOT

VOCABULARY = Vocabulary.from_merges(list("abcdeht"), [("t", "h"), ("th", "e</w>"), ("b", "e</w>"), ("a", "t</w>")])
CONFIG = PretrainConfig(
    model=ModelConfig(vocabulary=VOCABULARY.size, context=8, width=16, layers=2, heads=2),
    steps=30, batch=8, micro_batch=2, max_lr=1e-2, warmup=2, log_every=5, validate_every=4, validate_windows=5, snapshot_every=10,
    prompts=(Prompt("the be", (1, 2)), Prompt("a", (3,))), sample_tokens=5,
)  # fmt: skip


POISON = "noise"
NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")


def write_data(folder: Path, poison: int = 0) -> Place:
    """Three training books and one held out, each a noisy walk over the ids, so that there is something to learn.

    `poison`: length of a fourth training book, of ids drawn at random: a model of the walk finds it very unlikely.
    """
    draw = np.random.default_rng(0)
    spans = []
    for chosen, lengths in (("train", [150, 90, 120]), ("held_out", [77])):
        ids = np.cumsum(draw.integers(1, 3, sum(lengths))) % VOCABULARY.size
        if poison and chosen == "train":
            ids = np.concatenate([ids, draw.integers(0, VOCABULARY.size, poison)])
            lengths.append(poison)
        starts = np.cumsum([0, *lengths])
        for n, length in enumerate(lengths):
            name = POISON if n == 3 else f"{chosen}{n}"
            spans.append(BookSpan(name, "a title", None, "a file", "part-0000", chosen, int(starts[n]), length))
        file = folder / chosen / "part-0000.arrow"
        file.parent.mkdir(parents=True)
        with file.open("wb") as handle:
            metadata = {"vocabulary": VOCABULARY.sha256, "set": chosen, "part": "part-0000"}
            write_shard(handle, ids.astype(id_type(VOCABULARY.size)), metadata)
    with (folder / "books.parquet").open("wb") as handle:
        write_spans(handle, spans)
    VOCABULARY.save(folder / "vocabulary")
    shard = "part-0000.arrow"
    return Place(
        train=(str(folder / "train" / shard),),
        held_out=(str(folder / "held_out" / shard),),
        books=str(folder / "books.parquet"),
        vocabulary=str(folder / "vocabulary"),
        output=str(folder / "output"),
        checkpoint_every=3,
        device="cpu",
        threads=1,
    )


def zero(stage: int) -> str:
    """DeepSpeed's settings of that ZeRO stage."""
    return str(DEEPSPEED_FOLDER / f"zero{stage}.json")


def launcher(ranks: int) -> list[str]:
    """torchrun on a free port of this machine."""
    return ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]


def start(config: PretrainConfig, place: Place, ranks: int) -> subprocess.Popen[str]:
    """Begin pre-training under torchrun, in a process group of its own."""
    output = Path(place.output)
    output.mkdir(parents=True, exist_ok=True)
    file = output / "run.json"
    file.write_text(to_json(config, place))
    command = [sys.executable, *launcher(ranks), "-m", "gpt1.train.pretrain", "--config", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def run(config: PretrainConfig, place: Place, ranks: int) -> str:
    """Pre-train to the end; returns what was printed."""
    process = start(config, place, ranks)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


def contents(output: Path) -> dict[str, bytes]:
    """The deterministic outputs, by name."""
    names = ["model.safetensors", "config.json", "metrics.jsonl", "samples.jsonl", "samples.md", "held_out_books.jsonl"]
    files = [output / name for name in names] + sorted((output / "snapshots").iterdir())
    return {str(file.relative_to(output)): file.read_bytes() for file in files}


def changed(place: Place, **values: Any) -> Place:
    """The same place but for `values`."""
    return dataclasses.replace(place, **values)
