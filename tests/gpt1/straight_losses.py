"""A straight reading of SPEC section 4, kept apart from the code: one sequence at a time, no batches, no padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.model.gpt import GPT


def states(gpt: GPT, sequence: Sequence[int]) -> Tensor:
    """(T, C): the last block's outputs, of the sequence alone."""
    return gpt(torch.tensor([list(sequence)]))[0]


def language_model_loss(gpt: GPT, sequences: Sequence[Sequence[int]]) -> Tensor:
    """The mean over sequences of each one's mean cross-entropy over all ids but the first."""
    losses = []
    for sequence in sequences:
        hidden = states(gpt, sequence)
        each = []
        for place in range(1, len(sequence)):
            logits = gpt.tokens_embed.weight @ hidden[place - 1]
            each.append(-torch.log_softmax(logits, 0)[sequence[place]])
        losses.append(torch.stack(each).mean())
    return torch.stack(losses).mean()


def class_losses(logits: Tensor, labels: Sequence[int]) -> Tensor:
    """Mean negative log-probability of the right class or answer."""
    return torch.stack([-torch.log_softmax(row, 0)[label] for row, label in zip(logits, labels, strict=True)]).mean()


def classification(gpt: GPT, weight: Tensor, bias: Tensor, sequences: Sequence[Sequence[int]], labels: Sequence[int]) -> Tensor:
    """Classification and entailment: linear on the last state."""
    return class_losses(torch.stack([weight @ states(gpt, sequence)[-1] + bias for sequence in sequences]), labels)


def similarity_logits(gpt: GPT, weight: Tensor, bias: Tensor, pairs: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Both orders, their last states added."""
    return torch.stack([weight @ (states(gpt, one)[-1] + states(gpt, other)[-1]) + bias for one, other in pairs])


def choice(gpt: GPT, weight: Tensor, bias: Tensor, questions: Sequence[Sequence[Sequence[int]]], labels: Sequence[int]) -> Tensor:
    """One number an answer, softmax over the answers."""
    logits = [torch.cat([weight @ states(gpt, answer)[-1] + bias for answer in answers]) for answers in questions]
    return class_losses(torch.stack(logits), labels)


def soft_regression(logits: Tensor, scores: Sequence[float]) -> Tensor:
    """The released code's soft labels: the score's share of the whole number above it, the rest below."""
    losses = []
    for row, score in zip(logits, scores, strict=True):
        target = torch.zeros(6)
        for number in range(6):
            target[number] = max(0.0, 1.0 - abs(score - number))
        losses.append(-(target * F.log_softmax(row, 0)).sum())
    return torch.stack(losses).mean()
