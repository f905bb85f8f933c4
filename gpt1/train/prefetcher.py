"""The next steps' micro-batches, read while this step is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from gpt1.train.engine import MicroBatch

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
