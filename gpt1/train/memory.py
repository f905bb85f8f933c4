"""The memory of a rank, estimated; and the check before the first step: does the training fit into
the memory there is, and how fast do the ranks exchange numbers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.config import PretrainConfig
from gpt1.train.dist import DistContext

BUCKET, LIVE = 500_000_000, 1_000_000_000
"""Parameters: DeepSpeed's defaults of reduce_bucket_size and stage3_max_live_parameters."""
MARGIN = 0.75
"""A training is refused only where so much of the estimate does not fit: on CPUs it takes 0.85
to 1.15 of it (benchmarks/memory.py), on GPUs that is not known.
"""
LOOKS, WAIT = 6, 3.0  # times, and seconds between them
EXCHANGED = 16 << 20  # bytes, about a bucket of gradients
ROUNDS = 3
SLOW = {"cpu": 0.1, "cuda": 2.0}
"""GB/s: gigabit Ethernet, and a GPU without NVLink or a fast network."""
GROUPS = Path("/sys/fs/cgroup")
Given = dict[str, Any]
"""Arguments of `memory`."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank at the peak, during an update after the first (see `memory`).

    `activations` are what blocks keep for the backward pass and the working space of one of them,
    `logits` all tables of logits and their gradients.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {size(value)}" for name, value in asdict(self).items())
        return f"{size(self.total)} = {shown}"


def memory(
    model: ModelConfig, *, micro_batch: int, ranks: int, zero: int, bf16: bool,
    recompute: bool = False, loss_chunk: int = 0, compiled: bool = False, cpu: bool = False,
) -> Memory:
    """Bytes on each of `ranks` under ZeRO stage `zero`, on a GPU or a `cpu`.

    The sum of what is allocated, each in its largest form. On a GPU freed memory is used again
    before the peak. On a CPU it stays with the process (`gpt1.train.engine.keep_freed_memory`),
    and glibc 2.36 gives an aligned block only out of a larger one, so a freed block does not serve
    the next of its own size: tables that are never alive together count, too.
    benchmarks/memory.py measures this.
    """
    count, kept = model.parameters(), 2 if bf16 else 4
    rows, positions = model.rows * model.width, micro_batch * model.context
    states = _states(count, ranks, zero, bf16, cpu)
    # Without ZeRO bf16 is an autocast, which copies the matrices; recomputation those of a block.
    copies = 2 * (rows if recompute else count) if bf16 and not zero else 0
    block = positions * _kept_by_block(model, kept, cpu)
    stream = positions * model.width * kept  # what goes from block to block
    # The backward pass of a block makes a gradient for each tensor that it kept, but for the
    # workspace of oneDNN's LSTM. With recomputation the first pass has such tables, too; those of
    # the logits, which come next, take their place.
    passing = block if model.kind != "lstm" else block - positions * 15 * model.units * kept
    logits = _logits(model, positions, loss_chunk, kept, compiled, cpu)
    working = passing + (max(passing - logits, 0) if recompute else 0) if cpu else 0
    # With recomputation the input of each block, and one block at a time.
    blocks = model.layers * stream + block if recompute else model.layers * block
    embedding = stream + positions * model.width * (4 if cpu else 1)  # the noise of its dropout
    if model.embedding_dropout == "matrix":  # the noise and the product are as large as the rows
        embedding += (rows + model.context * model.width) * (4 + (4 if cpu else 1))
    # The tied rows get a gradient as softmax and one as embedding, and then their sum.
    gradients = states["gradients"] + 4 * rows
    return Memory(
        weights=states["weights"] + copies, gradients=gradients, optimizer=states["optimizer"],
        activations=blocks + embedding + working, logits=logits,
    )


def memory_arguments(config: PretrainConfig, ranks: int, cpu: bool) -> Given:
    """What `memory` takes of a configuration."""
    return {
        "micro_batch": config.micro_batch_size, "ranks": ranks, "zero": config.zero_stage(ranks),
        "bf16": config.precision == "bf16", "recompute": config.activation_checkpointing,
        "loss_chunk": config.loss_chunk_size, "compiled": config.compile, "cpu": cpu,
    }  # fmt: skip


def _states(count: int, ranks: int, zero: int, bf16: bool, cpu: bool) -> dict[str, int]:
    """Bytes of weights, gradients and optimizer.

    With ZeRO, DeepSpeed's ranks reduce gradients from a copy, BUCKET parameters at a time, for
    which gloo, between CPUs, has another. They have fp32 masters and gradients, Adam's two moments,
    and bf16 weights. ZeRO 3 gathers up to LIVE weights and keeps them; on CPUs it also has the
    complete weights that it began with, and gloo's copy of what it gathers.
    """
    size = 2 if bf16 and zero else 4
    weights = size * count
    if zero == 3:
        weights = size * (count // ranks + min(count, LIVE) + (2 * count if cpu else 0))
    copies = 2 if cpu and ranks > 1 else 1
    copied = (copies if zero else 0) * size * min(count, BUCKET)
    return {
        "weights": weights,
        "gradients": count * size // (ranks if zero >= 2 else 1) + copied,
        "optimizer": 16 * count // ranks if zero else 8 * count,
    }


def _kept_by_block(model: ModelConfig, kept: int, cpu: bool) -> int:
    """Bytes that one block keeps for the backward pass, for a position: of width C the block's
    input, q, k, v, what attention gives, both sums before a layer norm and the first norm, and of
    4 C the two of the MLP: 16 C.

    Dropout keeps its noise, twice C: on CPUs in the type of the products, on GPUs as a byte. CPUs
    have no fused attention with dropout: they keep three tables of T a head (the probabilities, the
    noise, their product).
    """
    if model.kind == "lstm":
        # cuDNN keeps the gates and the states; oneDNN has a workspace of 15 U, and two outputs.
        units = 17 * model.units + 4 * model.width if cpu else 6 * model.units + 2 * model.width
        return units * kept
    if not model.dropout:
        return 16 * model.width * kept
    if not cpu:
        return 16 * model.width * kept + 2 * model.width
    return (18 * model.width + 3 * model.heads * model.context) * kept


def _logits(
    model: ModelConfig, positions: int, loss_chunk: int, kept: int, compiled: bool, cpu: bool
) -> int:
    """Bytes of the loss: tables of logits, and with chunks what the chunks share.

    All positions at a time: fp32 log-probabilities and two gradients of their size. Chunks: fp32
    logits and their gradient (chunked_loss.py). On a CPU one table more, which is freed before the
    peak: the logits, or with chunks an intermediate of logsumexp. bf16 tables are half as large:
    on a CPU they fit into freed blocks, on a GPU chunks have two of them at the peak, unless the
    loss is compiled, which makes the gradient from them at once.
    """
    if not loss_chunk:
        return positions * model.rows * (16 if cpu else 12)
    tables = 12 if cpu or (kept == 2 and not compiled) else 8
    # The gradient of the rows: the sum over chunks, one chunk's, and with bf16 cast rows.
    rows = model.rows * model.width * (4 + kept + (2 if kept == 2 else 0))
    hidden = 2 * positions * model.width * kept  # the gradient, and what it is scaled to
    return min(loss_chunk, positions) * model.rows * tables + rows + hidden


def checkpoint_bytes(parameters: int) -> int:
    """Bytes of a checkpoint, and of rank 0's copy while it is written: weights and two moments in
    fp32.
    """
    return 12 * parameters


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


# The check before training


@dataclass(frozen=True)
class Need:
    """Bytes that `ranks` which share a memory need: `each` of them, and `once` for the copy of a
    checkpoint; and how many are `free`.
    """

    each: int
    ranks: int
    once: int
    free: int

    @property
    def total(self) -> int:
        """Of all of them together."""
        return self.each * self.ranks + self.once

    @property
    def is_hopeless(self) -> bool:
        """Whether even MARGIN of it is more than what is free."""
        return self.total * MARGIN > self.free

    def __str__(self) -> str:
        copy = f" (+{size(self.once)} per host while checkpointing)" if self.once else ""
        all_ranks = f", {size(self.total)} for the {self.ranks} ranks of a host"
        several = all_ranks if self.ranks > 1 else ""
        return f"about {size(self.each)} per rank{copy}{several}, {size(self.free)} free"


def check_before_training(
    config: PretrainConfig, model: ModelConfig, ranks: DistContext, info: Callable[[str], None]
) -> None:
    """Raise UserError, on all ranks, when the training cannot fit; say on rank 0 what it needs and
    how fast the ranks exchange.

    Where the system does not say how much memory is free, nothing is refused.
    """
    given = memory_arguments(config, ranks.world, cpu=ranks.device.type == "cpu")
    need = _find_need(model, ranks, given)
    advice = "; ".join(_list_savings(model, given))
    if need and need.is_hopeless:
        raise UserError(
            f"pretrain: training does not fit in memory: {need}; expected at least {MARGIN:.0%} of"
            f" the estimate to be free. Try {advice}; fewer workers per host. `debug: {{preflight:"
            " false}` skips this check"
        )
    if need and ranks.is_main:
        info(f"preflight: {need}")
        if need.total > need.free:
            info(f"warning: training may run out of memory. Try {advice}")
    if ranks.world > 1:
        for line in _describe_exchange(_time_all_reduce(ranks), model, ranks, given):
            info(line)


def _describe_exchange(
    seconds: float, model: ModelConfig, ranks: DistContext, given: Given
) -> Iterator[str]:
    """What an all-reduce of EXCHANGED bytes took, and a warning where it is slow; on rank 0."""
    if not ranks.is_main:
        return
    # As NCCL's tests count it: an all-reduce moves 2 (n - 1) / n of the bytes
    rate = 2 * (ranks.world - 1) / ranks.world * EXCHANGED / seconds / 1e9
    yield (
        f"preflight: {size(EXCHANGED)} all-reduced over {ranks.world} ranks in"
        f" {seconds * 1e3:.1f} ms, {rate:.2f} GB/s"
    )
    if rate < SLOW[ranks.device.type]:
        gradients = model.parameters() * (2 if given["bf16"] and given["zero"] else 4)
        yield (
            f"warning: slow all-reduce: the gradients of a step ({size(gradients)}) take about"
            f" {gradients / EXCHANGED * seconds:.1f}s; check the network"
        )


def _list_savings(model: ModelConfig, given: Given) -> list[str]:
    """What makes a rank need less, with the bytes it would need then, the most first."""
    changes: dict[str, Given] = {
        f"micro_batch_size 1 instead of {given['micro_batch']}": {"micro_batch": 1},
        "activation_checkpointing": {"recompute": True},
        "loss_chunk_size 512": {"loss_chunk": given["loss_chunk"] or 512},
        f"zero 3 instead of {given['zero']}": {"zero": 3 if given["ranks"] > 1 else given["zero"]},
    }
    now = memory(model, **given).total
    then = [(memory(model, **{**given, **other}).total, name) for name, other in changes.items()]
    found = [f"{name} ({size(need)} per rank)" for need, name in sorted(then) if need < now]
    return found or ["a smaller model"]


def _find_need(model: ModelConfig, ranks: DistContext, given: Given) -> Need | None:
    """The need that is least covered, the same on every rank; None where a rank cannot tell.

    Ranks that were killed a moment ago may still hold their memory: so it looks again for a while
    before it gives up.
    """
    on_cpu = ranks.device.type == "cpu"
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_cpu else 1
    # Rank 0 alone holds the copy of a checkpoint. torchrun numbers the hosts in GROUP_RANK, Ray
    # Train in NODE_RANK, and rank 0 is on the first; where neither did, this may be its host.
    host = os.environ.get("GROUP_RANK", os.environ.get("NODE_RANK", "0"))
    once = checkpoint_bytes(model.parameters()) if on_cpu and host == "0" else 0
    for again in range(LOOKS):
        time.sleep(WAIT if again else 0)
        free = free_memory(ranks.device)
        rows = ranks.gather(torch.tensor([-1 if free is None else free, sharing, once])).tolist()
        if any(free < 0 for free, _, _ in rows):
            return None
        each = memory(model, **given).total
        needs = [Need(each, number, copy, free) for free, number, copy in rows]
        need = min(needs, key=lambda need: need.free / need.total)
        if not need.is_hopeless:
            break
    return need


def _time_all_reduce(ranks: DistContext) -> float:
    """Seconds of one all-reduce of EXCHANGED bytes among all ranks, the best of some."""
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


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on a CUDA device, or of a CPU's memory; None where the
    system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    host = _read_rows(Path("/proc/meminfo"))
    found = [host["MemAvailable:"] * 1024] if "MemAvailable:" in host else []
    return min([*found, *read_groups(Path("/proc/self/cgroup"), GROUPS)], default=None)


def read_groups(file: Path, groups: Path) -> Iterator[int]:
    """Bytes left in each control group that bounds this process (containers, Kubernetes, Slurm),
    by version 1 or 2; files that the kernel can drop count as free.

    `file` names the process's groups (cgroups(7)), `groups` is where they are mounted. In a
    container a group's own name may be outside of what is mounted; then the mounted root is the
    group.
    """
    for line in file.read_text().splitlines() if file.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, limit, used = groups, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, used = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = root / name.lstrip("/")
        for place in [folder, *folder.parents]:
            files = (place / limit, place / used)
            if place.is_relative_to(root) and all(map(Path.is_file, files)):
                bound, taken = (one.read_text().strip() for one in files)
                rows = _read_rows(place / "memory.stat")
                cache = rows.get("total_inactive_file", rows.get("inactive_file", 0))
                if bound.isdigit():
                    yield int(bound) - int(taken) + cache


def _read_rows(file: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    lines = file.read_text().splitlines() if file.is_file() else ()
    return {line.split()[0]: int(line.split()[1]) for line in lines}
