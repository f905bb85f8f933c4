"""Which examples make a batch: a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpt1.rng import generator

POOL = 64
"""At most so many batches are sorted by length together.

Pools are drawn at random, at least four an epoch, so that no two epochs have the same batches;
larger ones would save little padding more.
"""


def epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    """The order of the training examples in an epoch."""
    return torch.randperm(count, generator=generator("order", seed, epoch)).tolist()


def epoch_batches(
    lengths: Sequence[int], size: int, seed: int, epoch: int, group_by_length: bool
) -> list[list[int]]:
    """The places of each batch's examples, `size` a batch; `lengths` are the examples' longest
    sequences in ids.

    The rest of an epoch that fills no batch is left out, as in the released code: others in each
    epoch. With `group_by_length` those of like length of a pool's random examples go together, and
    the batches are shuffled; else they follow the order.
    """
    order = epoch_order(len(lengths), seed, epoch)[: len(lengths) // size * size]
    if group_by_length:
        pool = size * max(1, min(POOL, len(order) // (4 * size)))
        pools = (order[start : start + pool] for start in range(0, len(order), pool))
        order = [
            place for drawn in pools for place in sorted(drawn, key=lambda place: lengths[place])
        ]
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    if not group_by_length:
        return batches
    shuffled = torch.randperm(len(batches), generator=generator("batches", seed, epoch)).tolist()
    return [batches[place] for place in shuffled]
