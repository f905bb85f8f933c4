"""The next step's micro-batches, read while this step is computed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from gpt1.train.engine import MicroBatch
from gpt1.train.loop import MicroBatches


class Ahead:
    """The same micro-batches as `make` gives, made by a thread one step ahead; pinned, so that copying them to a GPU waits for
    nothing. Which step is asked for does not matter: what was made for another is thrown away."""

    def __init__(self, make: MicroBatches, steps: int, pin: bool = False) -> None:
        self._make, self._steps, self._pin = make, steps, pin
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Sequence[MicroBatch]]] | None = None

    def __call__(self, step: int) -> Sequence[MicroBatch]:
        """The micro-batches of `step`."""
        waiting, self._next = self._next, None
        made = waiting[1].result() if waiting and waiting[0] == step else self._thread.submit(self._prepare, step).result()
        if step + 1 < self._steps:
            self._next = (step + 1, self._thread.submit(self._prepare, step + 1))
        return made

    def _prepare(self, step: int) -> Sequence[MicroBatch]:
        made = self._make(step)
        if not self._pin:
            return made
        return [MicroBatch(one.index, tuple(tensor.pin_memory() for tensor in one.inputs)) for one in made]
