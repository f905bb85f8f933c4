"""The workflows in examples/ run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gpt1.data.shards import Shards
from gpt1.model.gpt import token_losses
from gpt1.weights.store import load_model
from pipeline.results import open_store
from tests.conftest import ROOT
from tests.e2e.workflow import done, gpt1

pytestmark = pytest.mark.slow

COUNTERFACTUAL = ROOT / "examples" / "counterfactual" / "workflow.yaml"
BOOK = "brontes/Anne_Bronte_Agnes_Grey"
SMALL = (
    "ingest.num_partitions=2", "ingest.folders=[brontes]", "split.held_out_tail=0",
    "split.held_out=0.3", "vocabulary.num_merges=200", "pretrain.layers=1", "pretrain.width=16",
    "pretrain.max_steps=12", "pretrain.warmup_steps=1", "pretrain.seed=[1,2]",
    "effect.sequences=3",
)  # fmt: skip


def test_counterfactual(tmp_path: Path) -> None:
    store = tmp_path / "store"
    given = [word for one in (*SMALL, f"pretrain.exclude_books=[[],[{BOOK}]]")
             for word in ("--set", one)]  # fmt: skip
    done("run", "--file", COUNTERFACTUAL, "--store", store, *given)
    results = open_store(store)
    losses, effects = (
        [json.loads(line) for line in results.file("effect", name).read_text().splitlines()]
        for name in ("losses.jsonl", "effects.jsonl")
    )
    loss_of = {(bool(row["excluded"]), row["seed"], row["book"]): row["loss"] for row in losses}
    books = {row["book"] for row in losses}
    assert len(books) == 4  # all of them, held-out ones too
    assert len(losses) == 4 * len(books)

    job = f"pretrain[exclude_books=['{BOOK}'],seed=2]"
    model = load_model(results.file(job, "model.safetensors")).eval()
    shards = results.shards("train")
    assert math.isclose(loss_of[True, 2, BOOK], straight(model, shards, BOOK), rel_tol=1e-5)

    by_group = {row["group"]: row for row in effects}
    assert list(by_group) == ["the book", "its author's other books", "other training books"]
    rises = [loss_of[True, seed, BOOK] - loss_of[False, seed, BOOK] for seed in (1, 2)]
    about = by_group["the book"]
    assert about["by_seed"] == rises
    assert math.isclose(about["mean"], sum(rises) / 2)
    # Student's t of one degree of freedom: 12.7062; the deviation of two values is |a - b|/sqrt 2.
    assert math.isclose(about["half_width"], 12.7062 * abs(rises[0] - rises[1]) / 2, rel_tol=1e-5)
    assert sum(row["books"] for row in effects) == len(books)
    assert f"| {BOOK} | the book | 1 | " in results.file("effect", "effects.md").read_text()


def straight(model: torch.nn.Module, shards: Shards, book: str) -> float:
    """The mean loss on three sequences of 128, a third of the book apart."""
    [number] = [n for n, span in enumerate(shards.spans) if span.book == book]
    ids = np.asarray(shards.book(number)).astype(np.int64)
    count = (len(ids) - 1) // 128
    found = []
    for sequence in (0, count // 3, 2 * count // 3):
        window = torch.from_numpy(ids[128 * sequence : 128 * sequence + 129])[None]
        with torch.no_grad():
            logits = model.lm_logits(model(window[:, :-1]))
        found.append(float(token_losses(logits, window[:, 1:]).mean()))
    return sum(found) / 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("pretrain.exclude_books=[[]]", "are no pairs with and without books"),
        (f"pretrain.exclude_books=[[{BOOK}]]", "are no pairs with and without books"),
        ("pretrain.lr=[1e-3,2e-3]", "differ in more than exclude_books and seed"),
    ],
)
def test_counterfactual_needs_pairs(changed: str, message: str, tmp_path: Path) -> None:
    ended = gpt1(
        "plan", "--file", COUNTERFACTUAL, "--store", tmp_path / "store", "--set", changed
    )
    assert ended.returncode == 2
    assert message in ended.stderr
