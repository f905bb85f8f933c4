"""Run by test_train_exact.py: the test's steps through the DeepSpeed engine.

Arguments: settings file, target, clip, eps, mutant, chunk of the loss.

The mutant `decay_ln` gives layer norms and biases the decay of matrices.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from gpt1.model.loss import LanguageModelling
from gpt1.train import optimiser
from gpt1.train.deepspeed_engine import DeepSpeedEngine
from gpt1.train.loop import train
from gpt1.train.ranks import Ranks, accumulation

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.gpt1.test_train_exact import BATCH, MICRO_BATCH, RATE, STEPS, initial_model, micro_batches

_, settings, target, clip, eps, mutant, chunk = sys.argv
if mutant == "decay_ln":
    optimiser.parameter_groups = lambda module, decay: [{"params": list(module.parameters()), "weight_decay": decay}]

ranks = Ranks.connect("cpu", threads=1)
engine = DeepSpeedEngine(
    LanguageModelling(initial_model(), int(chunk), 64 if int(chunk) else 0),
    optimiser.OptimiserConfig(clip=float(clip), eps=float(eps)),
    ranks,
    settings=Path(settings),
    seed=7,
    micro_batch=MICRO_BATCH,
    accumulation=accumulation(BATCH, MICRO_BATCH, ranks.world),
    precision="fp32",
)
norms: list[float] = []
train(
    engine,
    lambda step: micro_batches(step)[ranks.rank :: ranks.world],
    lambda _: RATE,
    steps=STEPS,
    after_step=lambda _, outcome: norms.append(float(outcome.gradient_norm)),
)
weights = engine.weights()
if ranks.first:
    torch.save({"weights": weights, "norms": norms}, target)
ranks.leave()
