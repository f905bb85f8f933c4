"""Perplexity on held-out windows, the same on any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.train.dist import DistContext

LossOf = Callable[[tuple[Tensor, ...]], Tensor]


def mean_loss(loss_of: LossOf, windows: np.ndarray, micro_batch: int, ranks: DistContext) -> float:
    """The mean loss in nats over all targets of `windows` (N, T+1).

    `loss_of` takes (B, T+1) ids and returns the scalar mean over its windows. Rank r computes
    micro-batches r, r + world, ...; the sums are added in the order of micro-batches, so the result
    does not depend on the number of ranks.
    """
    if len(windows) == 0:
        raise UserError(
            "held-out sequences: found none, expected at least one to compute perplexity; hold out"
            " more text or use a shorter context"
        )
    chunks = [windows[start : start + micro_batch] for start in range(0, len(windows), micro_batch)]
    rounds = -(-len(chunks) // ranks.world)
    sums = []
    for n in range(rounds):
        index = n * ranks.world + ranks.rank
        # ZeRO 3 gathers weights in every forward, so a rank without work repeats the last
        # micro-batch and discards the result
        chunk = chunks[min(index, len(chunks) - 1)]
        loss = loss_of((torch.from_numpy(np.ascontiguousarray(chunk)),))
        sums.append(float(loss) * len(chunk) if index < len(chunks) else 0.0)
    gathered = ranks.gather(torch.tensor(sums, dtype=torch.float64))  # (world, rounds)
    return math.fsum(gathered.T.flatten().tolist()) / len(windows)


def spread(count: int, limit: int) -> np.ndarray:
    """Indices of at most `limit` of `count` windows, evenly spread; all of them where `limit` is
    0.
    """
    if limit == 0 or limit >= count:
        return np.arange(count)
    return np.arange(limit) * count // limit
