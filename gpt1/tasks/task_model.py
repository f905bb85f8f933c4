"""A GPT with a task head, and the loss of fine-tuning: task + lambda x language model (paper,
section 3.2, equation 5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt1.model.gpt import GPT, Padding, per_sequence_loss, token_losses
from gpt1.tasks.heads import TaskHead


class TaskModel(nn.Module):
    """`forward` gives an engine the one scalar it trains on; `outputs` is for evaluation."""

    def __init__(self, gpt: GPT, head: TaskHead, lm_weight: float) -> None:
        super().__init__()
        self.gpt = gpt
        self.head = head
        self.lm_weight = lm_weight
        self.parts: tuple[Tensor, Tensor] | None = None
        """Task and language-model loss of the last forward, for the curves."""

    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """ids (N, T), lengths (N,), labels (B,) -> the scalar loss of the batch."""
        if self.lm_weight == 0:
            task = self.head.loss(self.outputs(ids, lengths), labels)
            self.parts = (task.detach(), torch.zeros_like(task))
            return task
        padding = Padding.after(lengths, ids.shape[1])
        hidden = self.gpt(ids, padding)  # (R, C)
        task = self.head.loss(self.head(hidden[padding.last]), labels)
        lm = self._lm_losses(hidden, ids, padding).mean()
        self.parts = (task.detach(), lm.detach())
        return task + self.lm_weight * lm

    def outputs(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (N, T), lengths (N,) -> the head's outputs (B, K), from the state at each sequence's
        last id, its extract token.
        """
        return self.head(self.gpt(ids, Padding.after(lengths, ids.shape[1]), last=True))

    def _lm_losses(self, hidden: Tensor, ids: Tensor, padding: Padding) -> Tensor:
        """(R, C) -> (N,): each sequence's mean over its own targets, all but its first id,
        delimiter and extract token included.
        """
        mask = padding.real[:, 1:]  # (N, T-1): target t is not padding
        predicts = torch.ones(len(hidden), dtype=torch.bool, device=ids.device)
        predicts[padding.last] = False
        found = token_losses(self.gpt.lm_logits(hidden[predicts]), ids[:, 1:][mask])
        losses = found.new_zeros(mask.shape).masked_scatter(mask, found)
        return per_sequence_loss(losses, mask)
