"""A GPT with a task head, and the loss of fine-tuning: task + lambda x language model (paper,
section 3.2, equation 5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gpt1.model.gpt import GPT, per_sequence_loss, token_losses
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
        hidden = self.gpt(ids)  # (N, T, C)
        task = self.head.loss(self.head(_extract(hidden, lengths)), labels)
        if self.lm_weight == 0:
            self.parts = (task.detach(), torch.zeros_like(task))
            return task
        lm = self._lm_losses(hidden, ids, lengths).mean()
        self.parts = (task.detach(), lm.detach())
        return task + self.lm_weight * lm

    def outputs(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (N, T), lengths (N,) -> the head's outputs (B, K)."""
        return self.head(_extract(self.gpt(ids), lengths))

    def _lm_losses(self, hidden: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
        """(N,): each sequence's mean over its own targets, all but its first id, delimiter and
        extract token included.
        """
        T = ids.shape[1]
        mask = (
            torch.arange(1, T, device=ids.device) < lengths[:, None]
        )  # (N, T-1): target t is not padding
        # Logits are computed for real targets only: they are the dearest part of a small model.
        found = token_losses(self.gpt.lm_logits(hidden[:, :-1][mask]), ids[:, 1:][mask])
        losses = found.new_zeros(mask.shape).masked_scatter(mask, found)
        return per_sequence_loss(losses, mask)


def _extract(hidden: Tensor, lengths: Tensor) -> Tensor:
    """(N, T, C) -> (N, C): the state at each sequence's last id, its extract token."""
    return hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
