"""Cross-entropy of a tied softmax without the logits ever being there as a whole.

Logits of a chunk of positions are made, turned into the loss and into gradients, and dropped: memory is chunk x V in fp32 instead
of N x V several times over (N x V x 4 bytes is 5.3 GB for a micro-batch of 64 x 512 and the paper's vocabulary). The gradient is
computed in the forward pass, as the loss's own gradient is a number that can be multiplied in later.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def chunked_mean_loss(hidden: Tensor, matrix: Tensor, targets: Tensor, chunk: int, pad: int = 0) -> Tensor:
    """hidden (N, C), softmax rows (V, C), targets (N,) int64 -> the scalar mean cross-entropy in nats, fp32.

    `chunk` positions at a time (0: all). The product is computed for the next multiple of `pad` columns (0: V), for GPUs whose
    matrix units like that; the added ones are masked and exist nowhere else. Under autocast the products have its type; sums are
    fp32.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, matrix = hidden.to(dtype), matrix.to(dtype)
    with torch.autocast(device, enabled=False):
        return _ChunkedLoss.apply(hidden, matrix, targets, chunk or len(targets), pad, torch.is_grad_enabled())


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, matrix: Tensor, targets: Tensor, chunk: int, pad: int, with_gradient: bool
    ) -> Tensor:
        N, V = len(targets), len(matrix)
        columns = F.pad(matrix, (0, 0, 0, -V % pad)) if pad else matrix  # (Vp, C)
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_gradient = torch.empty_like(hidden) if with_gradient else None
        matrix_gradient: Tensor | None = None
        for start in range(0, N, chunk):
            h, t = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = (h @ columns.T).float()  # (n, Vp): the only fp32 logits there are
            logits[:, V:] = float("-inf")
            total += (logits.logsumexp(-1) - logits.gather(-1, t).squeeze(-1)).sum()
            if hidden_gradient is None:
                continue
            wanted = logits.softmax(-1)
            wanted.scatter_add_(-1, t, wanted.new_full(t.shape, -1.0))
            gradient = wanted.div_(N).to(hidden.dtype)  # (n, Vp): d mean / d logits
            torch.mm(gradient, columns, out=hidden_gradient[start : start + chunk])
            part = (gradient.T @ h)[:V]
            matrix_gradient = part.float() if matrix_gradient is None else matrix_gradient.add_(part)
        if hidden_gradient is not None:
            ctx.save_for_backward(hidden_gradient, matrix_gradient)
            ctx.matrix_type = matrix.dtype
        return total / N

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, matrix_gradient = ctx.saved_tensors
        scaled = (matrix_gradient * upstream).to(ctx.matrix_type)
        return hidden_gradient * upstream.to(hidden_gradient.dtype), scaled, None, None, None, None
