"""The processes that train together: who am I, on which device, and the few exchanges training
needs besides the engine's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gpt1.errors import UserError

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
        if threads:
            torch.set_num_threads(threads)
        chosen = _choose(device)
        if not dist.is_initialized():
            backend = "nccl" if chosen.type == "cuda" else "gloo"
            if "RANK" in os.environ:
                dist.init_process_group(backend)
            else:
                dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return cls(dist.get_rank(), dist.get_world_size(), chosen)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the one that writes and speaks."""
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


def accumulation(batch: int, micro_batch: int, world: int) -> int:
    """Micro-batches a rank computes in one step.

    The global batch is fixed and a micro-batch is never split.

    Raises UserError when `micro_batch` x `world` does not divide `batch`.
    """
    if batch % micro_batch:
        raise UserError(
            f"micro_batch_size: {micro_batch} does not divide batch_size {batch}; choose a divisor"
            f" of {batch}"
        )
    micro_batches = batch // micro_batch
    if micro_batches % world:
        fits = [n for n in range(1, micro_batches + 1) if micro_batches % n == 0]
        raise UserError(
            f"workers: {world} ranks cannot share {micro_batches} micro-batches (batch_size {batch}"
            f" / micro_batch_size {micro_batch}); expected one of {fits}: change workers or"
            " micro_batch_size"
        )
    return micro_batches // world
