"""The training loop of pre-training (gpt1.train.pretrain) and fine-tuning (gpt1.tasks.finetune)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpt1 import fault
from gpt1.train.engine import Engine, MicroBatch, StepOutput
from gpt1.train.prefetcher import Prefetcher

MicroBatches = Callable[[int], Sequence[MicroBatch]]


class Trainer:
    """Makes the steps up to `steps`.

    `batches(step)` is this rank's share of the global batch and `rate(step)` the learning rate:
    both are pure functions of the 0-based step, so nothing but the step must be known to resume.
    """

    def __init__(
        self, engine: Engine, batches: MicroBatches, rate: Callable[[int], float], steps: int
    ) -> None:
        self.engine, self.steps, self.rate = engine, steps, rate
        self.batches = Prefetcher(batches, steps, pin=engine.device.type == "cuda")
        self.step = 0
        """Steps made so far."""

    def train(self) -> None:
        """Make all steps that are left."""
        while self.step < self.steps:
            self.after_step(self.train_step())
        self.batches.close()

    def train_step(self) -> StepOutput:
        """Make one optimizer step; its losses and gradient norm are still on the device."""
        output = self.engine.step(self.step, self.batches(self.step), self.rate(self.step))
        self.step += 1
        fault.point("train.step")
        return output

    def after_step(self, output: StepOutput) -> None:
        """What follows a step."""
        raise NotImplementedError
