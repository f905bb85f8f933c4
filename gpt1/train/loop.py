"""The training loop: a step is a batch in, metrics out. Pre-training and fine-tuning share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpt1 import fault
from gpt1.train.engine import Engine, MicroBatch, StepOutput

MicroBatches = Callable[[int], Sequence[MicroBatch]]
LearningRate = Callable[[int], float]
AfterStep = Callable[[int, StepOutput], None]


def train(
    engine: Engine, micro_batches: MicroBatches, learning_rate: LearningRate, *, steps: int,
    start: int = 0, after_step: AfterStep | None = None,
) -> None:
    """Make updates `start` ... `steps` - 1.

    `micro_batches(step)` gives this rank's share of the global batch and `learning_rate(step)` the
    rate, both pure functions of the 0-based step, so that nothing but the step must be known to go
    on. `after_step(done, outcome)` is told how many updates have been made.
    """
    for step in range(start, steps):
        outcome = engine.step(step, micro_batches(step), learning_rate(step))
        fault.point("train.step")
        if after_step:
            after_step(step + 1, outcome)
