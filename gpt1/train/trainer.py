"""The training loop of pre-training (gpt1.train.pretrain) and fine-tuning (gpt1.tasks.finetune)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from gpt1 import fault
from gpt1.train.engine import Engine, MicroBatch, StepOutput

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


DEPTH = 4
"""Steps read ahead: a device is given work well before it needs it, so a slow read must last
longer than some steps to be felt.
"""


class Prefetcher:
    """The same micro-batches as `make` gives, made by a thread up to DEPTH steps ahead; pinned, so
    that copying them to a GPU waits for nothing. Which step is asked for does not matter: what was
    made for another is thrown away.
    """

    def __init__(
        self, make: Callable[[int], Sequence[MicroBatch]], steps: int, pin: bool = False
    ) -> None:
        self._make, self._steps, self._pin = make, steps, pin
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: deque[tuple[int, Future[Sequence[MicroBatch]]]] = deque()

    def __call__(self, step: int) -> Sequence[MicroBatch]:
        """The micro-batches of `step`."""
        while self._next and self._next[0][0] != step:
            self._next.popleft()[1].cancel()
        first = self._next[-1][0] + 1 if self._next else step
        for ahead in range(first, max(step + 1, min(step + 1 + DEPTH, self._steps))):
            self._next.append((ahead, self._thread.submit(self._prepare, ahead)))
        return self._next.popleft()[1].result()

    def discard(self) -> None:
        """Forget what was read ahead: `make` gives other batches now."""
        for _, batch in self._next:
            batch.cancel()
        self._next.clear()

    def close(self) -> None:
        """End the thread."""
        self.discard()
        self._thread.shutdown()

    def _prepare(self, step: int) -> Sequence[MicroBatch]:
        made = self._make(step)
        if not self._pin:
            return made
        return [
            MicroBatch(one.index, tuple(tensor.pin_memory() for tensor in one.inputs))
            for one in made
        ]


class Reporter(Protocol):
    """Rank 0 calls it; the other ranks are silent."""

    def info(self, text: str) -> None:
        """One line for the person watching."""
        ...

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        """How far it is, with the step line as the note."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A point of one or more curves."""
        ...

    def should_stop(self) -> bool:
        """Whether training is to end with a checkpoint. Called once a step, so it must not wait."""
        ...


class PrintReporter:
    """Prints lines and progress notes: for `torchrun` and tests."""

    def info(self, text: str) -> None:
        print(text, flush=True)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        print(note or f"{done:g}/{total:g} {unit}", flush=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Curves are in metrics.jsonl; there is nothing to print."""

    def should_stop(self) -> bool:
        return False  # under torchrun each rank has signals of its own
