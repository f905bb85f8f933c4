"""The processes that train together: who am I, on which device, and the few exchanges training
needs besides the engine's own.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gpt1.errors import UserError
from gpt1.rng import use_threads

Device = Literal["auto", "cpu", "cuda"]
Made = TypeVar("Made")


@dataclass(frozen=True)
class DistContext:
    """This process among `world`; every method must be called by all of them in the same order."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def connect(cls, device: Device = "auto", threads: int | None = None) -> DistContext:
        """Join the group that the launcher described (torchrun or Ray Train set RANK, WORLD_SIZE,
        ...), or be a group of one.

        `threads` sets torch's CPU threads; equal results bit for bit need the same number.
        """
        chosen = _choose(device)
        if threads:
            use_threads(threads, chosen)
        if not dist.is_initialized():
            backend = "nccl" if chosen.type == "cuda" else "gloo"
            if "RANK" in os.environ:
                dist.init_process_group(backend)
            else:
                dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return cls(dist.get_rank(), dist.get_world_size(), chosen)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all are here."""
        dist.barrier()

    def destroy(self) -> None:
        """End the group, before the process ends: a rank that goes with gloo's threads alive may
        be aborted.
        """
        dist.barrier()
        dist.destroy_process_group()

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's `tensor`, of one shape and type, stacked in the order of ranks: (...) ->
        (world, ...), on the CPU.
        """
        here = tensor.to(self.device).contiguous()
        parts = [torch.empty_like(here) for _ in range(self.world)]
        dist.all_gather(parts, here)
        return torch.stack(parts).cpu()

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's `value` (picklable), on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def broadcast(self, tensor: Tensor | None, shape: torch.Size) -> Tensor:
        """Rank 0's `tensor`, of this shape, in fp32 on every rank's device. The others pass
        None.
        """
        here = (
            torch.empty(shape, device=self.device)
            if tensor is None
            else tensor.to(self.device, torch.float32).contiguous()
        )
        dist.broadcast(here, src=0)
        return here

    def run_on_all_ranks(self, make: Callable[[], Made]) -> Made:
        """What `make` returns here.

        A UserError on one rank is raised on all of them: the others would wait for that rank.
        """
        said, trouble = [""] * self.world, ""
        try:
            made = make()
        except UserError as error:
            trouble = str(error)
        dist.all_gather_object(said, trouble)
        failed = [rank for rank, text in enumerate(said) if text]
        if not failed:
            return made
        if len(failed) == self.world:
            raise UserError(trouble)
        who = "rank" if len(failed) == 1 else "ranks"
        raise UserError(f"{who} {', '.join(map(str, failed))}: {trouble or said[failed[0]]}")


def _choose(device: Device) -> torch.device:
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise UserError(
            "device: asked for cuda, but torch finds no GPU; set gpus to 0, or install a CUDA build"
            " of torch"
        )
    if device == "cpu" or not available:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed would take whatever it finds
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


# Requests to stop and to save


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
        self.ranks, self.file, self.minutes, self.clock = ranks, output / STOP_FILE, minutes, clock
        self.stop_after = self.left = stop_after
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
            self.file.unlink(missing_ok=True)  # of an earlier run, which has stopped
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
            stop = stop or self.file.exists() or self._asked() or self.left <= 0 < self.stop_after
            save = self.minutes > 0 and self.clock() - self._saved >= 60 * self.minutes
        return torch.tensor([stop, save], dtype=torch.int32)


def _asked(flags: torch.Tensor) -> Poll:
    return Poll(bool(flags[0]), bool(flags[1]))
