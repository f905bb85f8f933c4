"""Requests to stop, and to save by the clock: seen by single ranks, agreed by all at the end of a
step.

The ranks exchange two flags a step over a group of CPUs, and act on the flags of the step before,
which have long arrived: no step waits for it, and all ranks stop after the same step.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from gpt1.train.dist import DistContext

STOP_FILE = "stop"


class Stopped(Exception):
    """Training ended on request after `step` updates, with a checkpoint."""

    def __init__(self, step: int) -> None:
        super().__init__(
            f"stopped on request after step {step}; saved a checkpoint; run the same command to"
            " resume"
        )
        self.step = step

    def __reduce__(self) -> tuple[Any, ...]:
        return Stopped, (self.step,)


@dataclass(frozen=True)
class Poll:
    """What all ranks agree on."""

    stop: bool
    save: bool


class StopSignal:
    """SIGTERM to any rank (where training runs in a process's main thread), a file `stop` in the
    output folder, `asked` (looked at once a step, on rank 0) or `stop_after` updates in this run
    stop training; every `minutes` (0: never) a checkpoint is due.
    """

    def __init__(
        self, ranks: DistContext, output: Path, minutes: float = 0.0, stop_after: int = 0,
        clock: Callable[[], float] = time.monotonic, asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.ranks, self.file, self.minutes, self.left, self.clock = (
            ranks, output / STOP_FILE, minutes, stop_after, clock,
        )
        self._asked = asked
        self._saved = clock()
        self._terminated = threading.Event()
        self._group = dist.new_group(backend="gloo") if ranks.world > 1 else None
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._before: Any = None

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._on_signal)
        if self.ranks.is_main:
            self.file.unlink(missing_ok=True)  # of a run before: the request was heard
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._terminated.set()

    def saved(self) -> None:
        """A checkpoint was begun just now."""
        self._saved = self.clock()

    def poll(self) -> Poll:
        """What the ranks had seen by the end of the step before (a single rank: by now).

        All ranks must call it once a step.
        """
        if self._group is None:
            return _asked(self._seen())
        there = self._take()
        if there.save:
            self.saved()  # before looking at the clock again, or it would be asked for twice
        here = self._seen()
        self._pending = (
            dist.all_reduce(here, op=dist.ReduceOp.MAX, group=self._group, async_op=True),
            here,
        )
        return there

    def settle(self) -> None:
        """Wait for the exchange under way. All ranks must call it before they end."""
        self._take()

    def _take(self) -> Poll:
        if self._pending is None:
            return Poll(False, False)
        work, flags = self._pending
        work.wait()
        self._pending = None
        return _asked(flags)

    def _seen(self) -> torch.Tensor:
        """This rank's flags (2,): stop, save.

        Rank 0's clock, file and count are the ones that matter.
        """
        stop, save = self._terminated.is_set(), False
        if self.ranks.is_main:
            self.left -= 1
            stop = stop or self.left == 0 or self.file.exists() or self._asked()
            save = self.minutes > 0 and self.clock() - self._saved >= 60 * self.minutes
        return torch.tensor([stop, save], dtype=torch.int32)


def _asked(flags: torch.Tensor) -> Poll:
    return Poll(bool(flags[0]), bool(flags[1]))
