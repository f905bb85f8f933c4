"""The task heads: one linear layer on the last block's output at the extract token
(paper, section 3.2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.tasks.config import Regression
from gpt1.tasks.registry import Kind, Task

SCORES = 6
"""Classes of the soft label of a score from 0 to 5 (STS-B)."""
HEAD_STD = (
    0.02  # the linear layer is drawn from N(0, 0.02), as the model of the paper is (section 4.1)
)


class TaskHead(nn.Module):
    """Extract vectors (N, C) of B examples -> outputs (B, K): logits of classes or answers, or
    one number (`mse`).
    """

    def __init__(
        self, task: Task, width: int, dropout: float, regression: Regression,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.kind: Kind = task.kind
        self.regression: Regression | None = regression if task.regression else None
        self.choices = task.choices
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width, _outputs(task, self.regression))
        with torch.no_grad():
            self.linear.weight.normal_(0.0, HEAD_STD, generator=generator)
            self.linear.bias.zero_()

    def forward(self, extract: Tensor) -> Tensor:
        """(N, C) -> (B, K).

        Both orders of a pair are added; the answers of a question share their dropout mask.
        """
        C = extract.shape[-1]
        if self.kind == "choice":
            answers = extract.view(-1, self.choices, C)  # (B, K, C)
            mask = self.dropout(
                torch.ones_like(answers[:, :1])
            )  # (B, 1, C): one mask for all answers of a question
            return self.linear(answers * mask).squeeze(-1)  # (B, K)
        if self.kind == "similarity":
            extract = extract.view(-1, 2, C).sum(1)  # (B, C)
        return self.linear(self.dropout(extract))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(B, K) outputs and (B,) labels -> the scalar mean over examples."""
        outputs = outputs.float()
        if self.regression == "mse":
            return F.mse_loss(outputs.squeeze(-1), labels)
        return F.cross_entropy(
            outputs, soft_labels(labels) if self.regression == "soft" else labels
        )

    def predict(self, outputs: Tensor) -> Tensor:
        """(B, K) -> (B,): the class or answer, or the score (with soft labels: the expectation
        over 0 to 5).
        """
        outputs = outputs.float()
        if self.regression == "mse":
            return outputs.squeeze(-1)
        if self.regression == "soft":
            return outputs.softmax(-1) @ torch.arange(
                SCORES, dtype=outputs.dtype, device=outputs.device
            )
        return outputs.argmax(-1)


def _outputs(task: Task, regression: Regression | None) -> int:
    if task.kind == "choice" or regression == "mse":
        return 1
    return SCORES if regression == "soft" else len(task.labels)


def soft_labels(scores: Tensor) -> Tensor:
    """(B,) scores 0 to 5 -> (B, 6): each split linearly over the whole numbers below and above
    (docs/explanation/tasks.md).
    """
    below = scores.floor().clamp(max=SCORES - 2)
    share = scores - below
    classes = torch.zeros(len(scores), SCORES, dtype=scores.dtype, device=scores.device)
    rows = torch.arange(len(scores), device=scores.device)
    classes[rows, below.long()] = 1 - share
    classes[rows, below.long() + 1] = share
    return classes
