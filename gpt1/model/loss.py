"""Language-modeling losses (sections 3.1 and 3.2 of the paper)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.model.chunked_loss import chunked_mean_loss
from gpt1.model.gpt import GPT


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """(..., V) logits and (...) int64 targets -> (...) cross-entropies in nats, computed in
    fp32.
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

    def forward(self, windows: Tensor) -> Tensor:
        """(B, T+1) int64 ids -> the scalar mean over all B x T targets."""
        if self.compiled and not self.training:
            # Held-out batches come in many sizes, each of which would be compiled for longer than
            # it is computed.
            with torch.compiler.set_stance("force_eager"):
                return self._loss(windows)
        return self._loss(windows)

    def _loss(self, windows: Tensor) -> Tensor:
        if not self.chunk and not self.pad and not self.compiled:
            return window_losses(self.gpt, windows).mean()
        hidden = self.gpt(windows[:, :-1]).flatten(0, 1)  # (B x T, C)
        matrix, targets = self.gpt.take_softmax_matrix(), windows[:, 1:].flatten()
        return chunked_mean_loss(hidden, matrix, targets, self.chunk, self.pad, self.compiled)
