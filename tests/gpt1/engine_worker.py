"""Run by test_train_engine.py under torchrun: the test's steps through the DeepSpeed engine. Arguments: settings file, target."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from gpt1.model.gpt import GPT
from gpt1.model.loss import LanguageModelling
from gpt1.train.deepspeed_engine import DeepSpeedEngine
from gpt1.train.loop import train
from gpt1.train.optimiser import OptimiserConfig
from gpt1.train.ranks import Ranks, accumulation

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.gpt1.test_train_engine import SHAPE, STEPS, micro_batches

ranks = Ranks.connect("cpu", threads=1)
engine = DeepSpeedEngine(
    LanguageModelling(GPT(SHAPE, torch.Generator().manual_seed(0))),
    OptimiserConfig(),
    ranks,
    settings=Path(sys.argv[1]),
    seed=7,
    micro_batch=2,
    accumulation=accumulation(8, 2, ranks.world),
    precision="fp32",
)
train(engine, lambda step: micro_batches(step)[ranks.rank :: ranks.world], lambda _: 1e-3, steps=STEPS)
weights = engine.weights()
if ranks.first:
    torch.save(weights, sys.argv[2])
ranks.leave()
