"""Before the first step: does the training fit into the memory there is, and how fast do the ranks
exchange numbers.

The third thing worth knowing, whether the shards hold what their records say, is checked whenever
they are opened (gpt1.data.shards).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.config import PretrainConfig
from gpt1.train.describe import Memory, memory, size
from gpt1.train.dist import DistContext
from gpt1.train.estimate import checkpoint_bytes
from gpt1.train.free_memory import free_memory

MARGIN = 0.75
"""A training is refused only where so much of the estimate does not fit: on CPUs it takes 0.96
to 1.31 of it (benchmarks/memory.py), on GPUs that is not known.
"""
LOOKS, WAIT = 6, 3.0  # times, and seconds between them
EXCHANGED = 16 << 20  # bytes, about a bucket of gradients
ROUNDS = 3
Changes = Mapping[str, int | bool]
SLOW = {
    "cpu": 0.1,
    "cuda": 2.0,
}  # GB/s: gigabit Ethernet, and a GPU without NVLink or a fast network


@dataclass(frozen=True)
class Need:
    """Bytes that `ranks` which share a memory need: `each` of them, and `once` beside; and how many
    are `free`.
    """

    each: int
    ranks: int
    once: int
    free: int

    @property
    def all(self) -> int:
        """Of all of them together."""
        return self.each * self.ranks + self.once

    @property
    def hopeless(self) -> bool:
        """Whether even MARGIN of it is more than what is free."""
        return self.all * MARGIN > self.free


def check_before_training(
    config: PretrainConfig, model: ModelConfig, ranks: DistContext, info: Callable[[str], None]
) -> None:
    """Raise UserError, on all ranks, when the training cannot fit; say on rank 0 what it needs and
    how fast the ranks exchange.

    `zero` is the ZeRO stage in force. Where the system does not say how much memory is free,
    nothing is refused.
    """
    zero = config.zero_stage(ranks.world)
    could = options(config, model, ranks, zero)
    need = _need(config, model, ranks, zero)
    if need and need.hopeless:
        raise UserError(
            f"pretrain: training does not fit in memory: {describe_need(need)}; expected at least"
            f" {MARGIN:.0%} of the estimate to be free. Try {'; '.join(could)}; fewer workers per"
            " host. `debug: {preflight: false}` skips this check"
        )
    seconds = exchange_seconds(ranks)
    if not ranks.is_main:
        return
    found = [describe_need(need)] if need else []
    found += [exchanged(seconds, ranks.world)] if seconds else []
    if found:
        info(f"preflight: {'; '.join(found)}")
    if need and need.all > need.free:
        info(f"warning: training may run out of memory. Try {'; '.join(could)}")
    if seconds and bandwidth(seconds, ranks.world) < SLOW[ranks.device.type]:
        gradients = model.parameters() * (2 if config.precision == "bf16" and zero else 4)
        took = gradients / EXCHANGED * seconds
        info(
            f"warning: slow all-reduce: the gradients of a step ({size(gradients)}) take about"
            f" {took:.1f}s; check the network"
        )


def expected(
    config: PretrainConfig, model: ModelConfig, ranks: DistContext, zero: int,
    other: Changes | None = None,
) -> Memory:
    """The estimate for one rank; `other` replaces arguments of gpt1.train.describe.memory."""
    given = {
        "micro_batch": config.micro_batch_size, "ranks": ranks.world, "zero": zero,
        "bf16": config.precision == "bf16", "recompute": config.activation_checkpointing,
        "loss_chunk": config.loss_chunk_size, "cpu": ranks.device.type == "cpu",
    }  # fmt: skip
    return memory(model, **{**given, **(other or {})})  # type: ignore[arg-type]


def checkpoint_copies(model: ModelConfig) -> int:
    """Bytes on rank 0's host while a checkpoint is written: one copy of the weights and both
    moments in fp32.
    """
    return checkpoint_bytes(model.parameters())


def copies_here(model: ModelConfig) -> int:
    """Bytes on the host of this rank while a checkpoint is written: rank 0 alone holds a copy.

    torchrun numbers the hosts in GROUP_RANK, Ray Train in NODE_RANK, and rank 0 is on the first;
    where neither did, this may be rank 0's host.
    """
    host = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))
    return checkpoint_copies(model) if host == "0" else 0


def tightest(each: int, hosts: Iterable[tuple[int, int, int]]) -> Need:
    """The need that is least covered, where every rank needs `each`.

    A host: bytes that are free, its ranks, bytes needed once.
    """
    return min(
        (Need(each, ranks, once, free) for free, ranks, once in hosts),
        key=lambda need: need.free / need.all,
    )


def describe_need(need: Need) -> str:
    """One need for people."""
    copies = f" (+{size(need.once)} per host while checkpointing)" if need.once else ""
    beside = f", {size(need.all)} for the {need.ranks} ranks of a host" if need.ranks > 1 else ""
    return f"about {size(need.each)} per rank{copies}{beside}, {size(need.free)} free"


def options(
    config: PretrainConfig, model: ModelConfig, ranks: DistContext, zero: int
) -> list[str]:
    """What makes a rank need less, with the bytes it would need then, the most first."""
    now = expected(config, model, ranks, zero).total
    found = []
    for said, other in _changes(config, ranks, zero):
        then = expected(config, model, ranks, zero, other).total
        if then < now:
            found.append((then, f"{said} ({size(then)} per rank)"))
    return [said for _, said in sorted(found)] or ["a smaller model"]


def _changes(
    config: PretrainConfig, ranks: DistContext, zero: int
) -> Iterator[tuple[str, Changes]]:
    if config.micro_batch_size > 1:
        yield f"micro_batch_size 1 instead of {config.micro_batch_size}", {"micro_batch": 1}
    if not config.activation_checkpointing:
        yield "activation_checkpointing", {"recompute": True}
    if not config.loss_chunk_size:
        yield "loss_chunk_size 512", {"loss_chunk": 512}
    if zero < 3 and ranks.world > 1:
        yield f"zero 3 instead of {zero}", {"zero": 3}


def _need(
    config: PretrainConfig, model: ModelConfig, ranks: DistContext, zero: int
) -> Need | None:
    """What is needed and what is free where it is tightest, the same on every rank; None where a
    rank cannot tell.

    Ranks that were killed a moment ago may still hold their memory: so it looks again for a while
    before it gives up.
    """
    on_cpu = ranks.device.type == "cpu"
    each = expected(config, model, ranks, zero).total
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_cpu else 1
    once = copies_here(model) if on_cpu else 0
    for again in range(LOOKS):
        free = free_memory(ranks.device)
        rows = ranks.gather(torch.tensor([-1 if free is None else free, beside, once])).tolist()
        if any(free < 0 for free, _, _ in rows):
            return None
        need = tightest(each, rows)
        if not need.hopeless:
            return need
        time.sleep(WAIT if again < LOOKS - 1 else 0)
    return need


def exchange_seconds(ranks: DistContext) -> float | None:
    """Seconds of one all-reduce of EXCHANGED bytes among all ranks, the best of some; None for a
    rank alone.
    """
    if ranks.world == 1:
        return None
    numbers = torch.zeros(EXCHANGED // 4, device=ranks.device)
    took = []
    for _ in range(1 + ROUNDS):
        ranks.barrier()
        began = time.perf_counter()
        dist.all_reduce(numbers)
        if ranks.device.type == "cuda":
            torch.cuda.synchronize(ranks.device)
        took.append(time.perf_counter() - began)
    best = min(took[1:])  # the first connects the ranks
    return float(ranks.gather(torch.tensor(best, dtype=torch.float32)).max())


def bandwidth(seconds: float, world: int) -> float:
    """GB/s through each rank's link, as NCCL's tests count it: an all-reduce moves 2 (n - 1) / n
    of the bytes.
    """
    return 2 * (world - 1) / world * EXCHANGED / seconds / 1e9


def exchanged(seconds: float, world: int) -> str:
    """One measurement for people."""
    return (
        f"{size(EXCHANGED)} all-reduced over {world} ranks in {seconds * 1e3:.1f} ms,"
        f" {bandwidth(seconds, world):.2f} GB/s"
    )
