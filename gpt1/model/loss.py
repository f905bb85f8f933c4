"""Language-modeling losses (sections 3.1 and 3.2 of the paper)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.model.chunked_loss import chunked_mean_loss
from gpt1.model.gpt import GPT

EXCLUDED = -100  # torch's default `ignore_index`
"""A target that counts neither in the loss nor in the gradient."""


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(..., V) logits and (...) int64 targets -> (...) cross-entropies in nats, computed in
    fp32; 0 for a target that is EXCLUDED.
    """
    flat = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def window_losses(model: GPT, windows: Tensor) -> Tensor:
    """(B, T+1) ids -> (B, T): the loss of each window's ids but the first, given all before it
    in the window.
    """
    hidden = model(windows[:, :-1])
    return token_losses(model.lm_logits(hidden), windows[:, 1:])


def per_sequence_loss(losses: Tensor, mask: Tensor) -> Tensor:
    """(B, T) losses and a (B, T) mask of the targets that count -> (B,): the mean over each
    sequence's own targets.

    The auxiliary loss of fine-tuning: averaged over one sequence first, then (by the caller) over
    sequences (docs/explanation/tasks.md).
    """
    mask = mask.to(losses.dtype)
    return (losses * mask).sum(-1) / mask.sum(-1).clamp(min=1)


class LanguageModelling(nn.Module):
    """What pre-training trains: windows in, their mean loss out, so that an engine sees one forward
    a micro-batch.

    With `chunk`, `pad` or after `compile_for_training` the loss is that of `chunked_mean_loss`,
    with other last bits.
    """

    def __init__(self, gpt: GPT, chunk: int = 0, pad: int = 0) -> None:
        super().__init__()
        self.gpt = gpt
        self.chunk = chunk
        self.pad = pad
        self.compiled = False

    def compile_for_training(self, one_graph: bool) -> None:
        """Compile the loss and the model: the model in one graph, or block by block.

        One graph is faster on a rank alone. Among several ranks gradients are averaged while
        earlier blocks are still computed, which one graph would not allow.
        """
        self.compiled = True
        for part in (self.gpt,) if one_graph else self.gpt.h:
            part.compile()

    def forward(self, windows: Tensor, weights: Tensor | None = None) -> Tensor:
        """(B, T+1) int64 ids -> the scalar mean over all B x T targets.

        With `weights` (B,) each sequence's losses are multiplied by its own before that mean, and
        sequences of weight 0 are excluded: they give neither loss nor gradient. The others must
        have one weight.
        """
        if self.compiled and not self.training:
            # Held-out batches come in many sizes, each of which would be compiled for longer than
            # it is computed.
            with torch.compiler.set_stance("force_eager"):
                return self._loss(windows, weights)
        return self._loss(windows, weights)

    def _loss(self, windows: Tensor, weights: Tensor | None) -> Tensor:
        hidden, targets = self.gpt(windows[:, :-1]), windows[:, 1:]  # (B, T, C), (B, T)
        if weights is not None:
            targets = targets.masked_fill(weights[:, None] == 0, EXCLUDED)
        if not self.chunk and not self.pad and not self.compiled:
            losses = token_losses(self.gpt.lm_logits(hidden), targets)  # (B, T)
            return (losses if weights is None else losses * weights[:, None]).mean()
        loss = chunked_mean_loss(
            hidden.flatten(0, 1), self.gpt.take_softmax_matrix(), targets.flatten(), self.chunk,
            self.pad, self.compiled,
        )
        # The chunked mean is over the targets that count, B x T x (share of kept sequences).
        return loss if weights is None else loss * weights.mean()
