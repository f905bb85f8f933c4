"""SPEC section 4 read straight, apart from the code: one sequence at a time, unpadded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.model.gpt import GPT

Sequences = Sequence[Sequence[int]]


def states(gpt: GPT, sequence: Sequence[int]) -> Tensor:
    """(T, C): the last block's outputs, of the sequence alone."""
    return gpt(torch.tensor([list(sequence)]))[0]


def language_model_loss(gpt: GPT, sequences: Sequences) -> Tensor:
    """The mean over sequences of each one's mean cross-entropy over all ids but the first."""
    losses = []
    for sequence in sequences:
        logits = [gpt.tokens_embed.weight @ hidden for hidden in states(gpt, sequence)[:-1]]
        losses.append(class_losses(torch.stack(logits), sequence[1:]))
    return torch.stack(losses).mean()


def class_losses(logits: Tensor, labels: Sequence[int]) -> Tensor:
    """Mean negative log-probability of the right class or answer."""
    pairs = zip(logits, labels, strict=True)
    return torch.stack([-torch.log_softmax(row, 0)[label] for row, label in pairs]).mean()


def classification(
    gpt: GPT, weight: Tensor, bias: Tensor, sequences: Sequences, labels: Sequence[int]
) -> Tensor:
    """Classification and entailment: linear on the last state."""
    logits = [weight @ states(gpt, sequence)[-1] + bias for sequence in sequences]
    return class_losses(torch.stack(logits), labels)


def similarity_logits(gpt: GPT, weight: Tensor, bias: Tensor, pairs: Sequence[Sequences]) -> Tensor:
    """Both orders, their last states added."""
    last = [states(gpt, one)[-1] + states(gpt, other)[-1] for one, other in pairs]
    return torch.stack([weight @ state + bias for state in last])


def choice(
    gpt: GPT, weight: Tensor, bias: Tensor, questions: Sequence[Sequences], labels: Sequence[int]
) -> Tensor:
    """One number an answer, softmax over the answers."""
    last = [[states(gpt, answer)[-1] for answer in answers] for answers in questions]
    numbers = [torch.cat([weight @ state + bias for state in each]) for each in last]
    return class_losses(torch.stack(numbers), labels)


def soft_regression(logits: Tensor, scores: Sequence[float]) -> Tensor:
    """The released code's soft labels: a score's share of the integer above it, the rest below."""
    losses = []
    for row, score in zip(logits, scores, strict=True):
        target = torch.tensor([max(0.0, 1.0 - abs(score - number)) for number in range(6)])
        losses.append(-(target * F.log_softmax(row, 0)).sum())
    return torch.stack(losses).mean()
