"""Cross-entropy of a tied softmax that never holds all logits: loss and gradient of a chunk at a
time.

For each chunk of positions the logits are computed, turned into the loss and its gradient, and
dropped: memory is chunk x V instead of N x V several times over (N x V x 4 bytes is 5.3 GB for a
micro-batch of 64 x 512 and the paper's vocabulary). The gradient is computed in the forward pass,
because the gradient that arrives from above is a number by which it can be multiplied later.

Compiled, everything between the two matrix products is one function that reads a chunk's logits
twice and writes their gradient once; the plain path makes a pass for each operation, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def chunked_mean_loss(
    hidden: Tensor, matrix: Tensor, targets: Tensor, chunk: int, pad: int = 0,
    compiled: bool = False,
) -> Tensor:
    """Return the scalar mean cross-entropy in nats, fp32, over the targets that count.

    `hidden` is (N, C), `matrix` (V, C) the rows of the tied softmax, `targets` (N,) int64; a
    negative target counts neither in the loss nor in the gradient. `chunk` positions are computed
    at a time (0: all). The product has the next multiple of `pad` columns (0: V), which the matrix
    units of GPUs prefer; the added ones are masked and exist nowhere else. Under autocast the
    products have its type; sums, and the gradient of `matrix`, stay fp32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        return _ChunkedLoss.apply(
            hidden.to(dtype), matrix, targets, chunk or len(targets), pad, compiled,
            torch.is_grad_enabled(),
        )


def fused_loss_and_gradient(
    logits: Tensor, targets: Tensor, count: Tensor, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Return the summed loss () of a chunk and d(sum / count) / d(logits) in the logits' type.

    Written for torch.compile: every step is element-wise or a reduction over a row. `logits` is
    (n, Vp), of which the first `vocabulary` columns count; `targets` is (n,), `count` ().
    """
    columns = torch.arange(logits.shape[1], device=logits.device)
    wide = logits.float().masked_fill(columns >= vocabulary, float("-inf"))
    # Written out, for in torch.logsumexp the compiler does not see that maximum and sum take one
    # pass.
    largest = wide.amax(-1, keepdim=True)
    normalizer = largest + (wide - largest).exp().sum(-1, keepdim=True).log()  # (n, 1)
    counted = targets[:, None] >= 0
    found = wide.gather(-1, targets[:, None].clamp(min=0))  # (n, 1)
    loss = torch.where(counted, normalizer - found, 0.0).sum()
    gradient = (wide - normalizer).exp() - (columns == targets[:, None]).float()  # (n, Vp)
    return loss, torch.where(counted, gradient / count, 0.0).to(logits.dtype)


def plain_loss_and_gradient(
    logits: Tensor, targets: Tensor, count: Tensor, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Do the same in steps that overwrite the fp32 logits, so that there is one copy of them."""
    wide, loss = _summed_loss(logits, targets, vocabulary)
    gradient, ignored, rows = wide.softmax(-1), targets[:, None] < 0, targets[:, None].clamp(min=0)
    gradient.scatter_add_(-1, rows, gradient.new_full(rows.shape, -1.0))
    return loss, gradient.masked_fill_(ignored, 0.0).div_(count).to(logits.dtype)


def _summed_loss(logits: Tensor, targets: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return the masked logits in fp32 (of fp32 logits: the same memory) and their summed loss."""
    wide, rows = logits.float(), targets[:, None]
    wide[:, vocabulary:] = float("-inf")
    losses = wide.logsumexp(-1, keepdim=True) - wide.gather(-1, rows.clamp(min=0))
    return wide, losses.masked_fill_(rows < 0, 0.0).sum()


@cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    # One graph for a size of chunk: a training has one size, and another where chunks do not divide
    # its micro-batch.
    return torch.compile(fused_loss_and_gradient, dynamic=False)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, matrix: Tensor, targets: Tensor, chunk: int, pad: int,
        compiled: bool, with_gradient: bool,
    ) -> Tensor:
        N, V = len(targets), len(matrix)
        columns = matrix.to(hidden.dtype)
        columns = F.pad(columns, (0, 0, 0, -V % pad)) if pad else columns  # (Vp, C)
        total = hidden.new_zeros((), dtype=torch.float32)
        count = (targets >= 0).sum().clamp(min=1)
        hidden_gradient = torch.empty_like(hidden) if with_gradient else None
        matrix_gradient: Tensor | None = None
        loss_and_gradient = _compiled() if compiled else plain_loss_and_gradient
        for start in range(0, N, chunk):
            h, t = hidden[start : start + chunk], targets[start : start + chunk]
            logits = h @ columns.T  # (n, Vp)
            if hidden_gradient is None:
                total += _summed_loss(logits, t, V)[1]
                continue
            loss, gradient = loss_and_gradient(logits, t, count, V)
            total += loss
            torch.mm(gradient, columns, out=hidden_gradient[start : start + chunk])
            part = (gradient.T @ h)[:V]
            matrix_gradient = (
                part.float() if matrix_gradient is None else matrix_gradient.add_(part)
            )
        if hidden_gradient is not None:
            ctx.save_for_backward(hidden_gradient, matrix_gradient)
            ctx.matrix_type = matrix.dtype
        return total / count

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, matrix_gradient = ctx.saved_tensors
        scaled = (matrix_gradient * upstream).to(ctx.matrix_type)
        return (
            hidden_gradient * upstream.to(hidden_gradient.dtype), scaled, None, None, None, None,
            None,
        )
