"""The chunked loss gives the plain one's numbers and gradients, compiled too, in less memory.

Recomputing activations changes no bit.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt1.model.chunked_loss import chunked_mean_loss
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.model.loss import LanguageModelling
from tests.gpt1.tiny_pretraining import NEEDS_COMPILER

SMALL = ModelConfig(vocabulary=50, context=12, width=32, layers=2, heads=4)
PLAIN = [(chunk, pad) for chunk in (0, 1, 7, 33, 64, 130, 1000) for pad in (0, 64)]


def operands() -> tuple[torch.Tensor, ...]:
    """Two ranges of the targets do not count: one inside a chunk, one over several."""
    draw = torch.Generator().manual_seed(1)
    hidden, matrix = (torch.randn(n, 48, generator=draw).requires_grad_() for n in (130, 1001))
    targets = torch.randint(0, 1001, (130,), generator=draw)
    targets[3:9] = -1
    targets[40:95] = -100
    return hidden, matrix, targets


def errors(compiled: bool, chunk: int, pad: int, bf16: bool) -> list[float]:
    """Relative errors of loss, hidden gradient and matrix gradient against torch's cross-entropy
    over all logits at once, with the same type of products."""
    hidden, matrix, targets = operands()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        plain = F.cross_entropy(F.linear(hidden, matrix).float(), targets.where(targets >= 0, -100))
        loss = chunked_mean_loss(hidden, matrix, targets, chunk, pad, compiled)
    expected = (plain.detach(), *torch.autograd.grad(plain * 3, (hidden, matrix)))
    found = (loss.detach(), *torch.autograd.grad(loss * 3, (hidden, matrix)))
    assert [tensor.dtype for tensor in found] == [torch.float32] * 3
    pairs = zip(found, expected, strict=True)
    return [float((one - two).norm() / two.norm()) for one, two in pairs]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=NEEDS_COMPILER)])
@pytest.mark.parametrize("bf16", [False, True])
def test_it_is_within_its_tolerance_of_plain_cross_entropy(compiled: bool, bf16: bool) -> None:
    """Chunks that do not divide, padded columns, ignored ranges.

    fp32: 1e-6 of loss and gradients, in the Euclidean norm. bf16: 1e-6 of the loss, whose logits
    are the same; 5e-3 of the gradients, since d loss / d logits is rounded to bf16 (a relative 2^-8
    at most) here before, there after the mean is taken.
    """
    torch.compiler.reset()
    for chunk, pad in ((0, 0), (33, 64), (64, 0)) if compiled or bf16 else PLAIN:
        loss, *gradients = errors(compiled, chunk, pad, bf16)
        assert loss < 1e-6
        assert max(gradients) < (5e-3 if bf16 else 1e-6)


def test_without_gradient_it_is_the_same_loss_and_no_targets_give_none() -> None:
    hidden, matrix, targets = operands()
    loss = chunked_mean_loss(hidden, matrix, targets, 33)
    with torch.no_grad():
        assert chunked_mean_loss(hidden, matrix, targets, 33) == loss.detach()
        assert chunked_mean_loss(hidden, matrix, torch.full_like(targets, -1), 33) == 0


class Largest(TorchDispatchMode):
    """The most elements that any tensor in fp32 had."""

    elements = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = call(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        sizes = [tensor.numel() for tensor in tensors if tensor.dtype == torch.float32]
        self.elements = max([self.elements, *sizes])
        return out


def test_in_chunks_logits_are_never_complete_in_fp32() -> None:
    model = GPT(ModelConfig(vocabulary=1000, context=32, width=8, layers=1, heads=1))
    for chunk in (0, 16):
        with Largest() as largest:
            LanguageModelling(model, chunk, chunk * 4)(torch.randint(0, 1000, (8, 33))).backward()
        # a chunk's logits and the feed-forward layer's are smaller
        assert (largest.elements <= 16 * 1024 + 8 * 32 * 32) == bool(chunk)


def gradients(config: ModelConfig, recompute: bool = False, chunk: int = 0) -> torch.Tensor:
    """All of them, after one batch under dropout."""
    model = GPT(config, torch.Generator().manual_seed(1))
    module = LanguageModelling(model, chunk, 64 if chunk else 0)
    module.gpt.recompute = recompute
    torch.manual_seed(3)
    module(torch.arange(39).view(3, 13)).backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@pytest.mark.parametrize("mode", ["activation", "matrix"])
def test_chunks_and_recomputed_activations_take_the_same_path_under_dropout(mode: str) -> None:
    config = dataclasses.replace(SMALL, embedding_dropout=mode)  # type: ignore[arg-type]
    plain = gradients(config)
    assert torch.equal(plain, gradients(config, recompute=True))
    assert torch.allclose(plain, gradients(config, chunk=5), atol=1e-7, rtol=1e-4)
