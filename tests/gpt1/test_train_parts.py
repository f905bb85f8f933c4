"""Rates, seeds, decay and settings files: what several modules call."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.train.optimiser import parameter_groups
from gpt1.train.random_state import derive_seed, seed_micro_batch
from gpt1.train.schedule import Schedule, learning_rate
from tests.gpt1.tiny_pretraining import CONFIG, changed, train_here, write_data

COSINE = 0.5 * (1 + math.cos(math.pi / 4))


@pytest.mark.parametrize(("schedule", "quarter"), [("cosine", COSINE), ("linear", 0.75)])
def test_rate_rises_and_falls(schedule: Schedule, quarter: float) -> None:
    def rate(step: int, warmup: int = 10, steps: int = 110) -> float:
        return learning_rate(step, max_lr=2.0, warmup=warmup, steps=steps, schedule=schedule)

    rates = [rate(step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * n for n in range(1, 11)])
    assert max(rates) == rates[9] == 2.0
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[9:]))
    assert 0 < rates[-1] < 0.02
    assert rate(59, steps=109) == pytest.approx(1.0)
    assert rate(24, warmup=0, steps=99) == pytest.approx(2 * quarter)


def test_micro_batches_have_seeds_of_their_own() -> None:
    drawn = set()
    for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 10, 1), (0, 1, 10)]:
        seed_micro_batch(*place)
        drawn.add(float(torch.rand(())))
    assert len(drawn) == 7
    # pinned: a change here would break resumes of trainings begun before it
    assert derive_seed("micro-batch", 0, 1, 2) == 1_074_920_039_379_011_986


def test_only_matrices_and_embeddings_decay() -> None:
    model = GPT(ModelConfig(vocabulary=11, context=4, width=8, layers=1, heads=2))
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = parameter_groups(model, 0.01)
    undecayed = {names[id(p)] for p in plain["params"]}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert undecayed == {n for n in names.values() if n.endswith("bias") or "ln_" in n}
    assert {names[id(p)] for p in decayed["params"]} == {*names.values()} - undecayed


BATCH = '{"zero_optimization": {"stage": 1}, "train_batch_size": 32}'
WRONG = {BATCH: "train_batch_size", '{"zero_optimization": {"stage": 4}}': "expected 0, 1, 2 or 3"}


@pytest.mark.parametrize(("text", "named"), [*WRONG.items(), ("{", "JSON"), (None, "missing")])
def test_wrong_settings_files_are_refused(text: str | None, named: str, tmp_path: Path) -> None:
    """By a rank alone too, which makes no use of them."""
    if text:
        (tmp_path / "zero.json").write_text(text)
    place = changed(write_data(tmp_path), deepspeed=str(tmp_path / "zero.json"))
    with pytest.raises(UserError, match=named):
        train_here(CONFIG, place)
