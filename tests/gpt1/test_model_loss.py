"""The chunked loss gives the plain one's numbers and gradients, and never makes the logits whole; recomputing changes no bit."""

from __future__ import annotations

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

N, C, V = 40, 8, 101


def operands(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden, matrix = (torch.randn(rows, C, generator=draw, dtype=dtype).requires_grad_() for rows in (N, V))
    return hidden, matrix, torch.randint(0, V, (N,), generator=draw)


@pytest.mark.parametrize("chunk", [0, 1, 7, 40, 1000])
@pytest.mark.parametrize("pad", [0, 64])
def test_loss_and_gradients_are_those_of_plain_cross_entropy(chunk: int, pad: int) -> None:
    hidden, matrix, targets = operands(torch.float32)
    plain = F.cross_entropy(hidden @ matrix.T, targets)
    expected = torch.autograd.grad(plain * 3, (hidden, matrix))
    loss = chunked_mean_loss(hidden, matrix, targets, chunk, pad)
    found = torch.autograd.grad(loss * 3, (hidden, matrix))
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_without_gradient_it_is_the_same_loss() -> None:
    hidden, matrix, targets = operands(torch.float32)
    with torch.no_grad():
        inside = chunked_mean_loss(hidden, matrix, targets, 7, 64)
    assert float(inside) == float(chunked_mean_loss(hidden, matrix, targets, 7, 64).detach())


def test_under_autocast_the_products_are_bf16_and_the_loss_fp32() -> None:
    hidden, matrix, targets = operands(torch.float32)
    plain = float(F.cross_entropy(hidden @ matrix.T, targets).detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_mean_loss(hidden, matrix, targets, 7)
    loss.backward()
    assert loss.dtype == torch.float32
    assert matrix.grad is not None
    assert matrix.grad.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(plain, rel=1e-2)


class Largest(TorchDispatchMode):
    """The most elements that any tensor in fp32 had."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float32:
                self.elements = max(self.elements, leaf.numel())
        return out


@pytest.mark.parametrize(("chunk", "whole"), [(0, True), (16, False)])
def test_logits_are_never_whole_in_fp32(chunk: int, whole: bool) -> None:
    model = GPT(ModelConfig(vocabulary=1000, context=32, width=8, layers=1, heads=1), torch.Generator().manual_seed(0))
    module = LanguageModelling(model, chunk, pad=64 if chunk else 0)
    windows = torch.randint(0, 1000, (8, 33))
    with Largest() as largest:
        module(windows).backward()
    assert (largest.elements >= 8 * 32 * 1000) is whole
    if not whole:
        assert largest.elements <= 16 * 1024 + 8 * 32 * 32  # a chunk's logits, or the feed-forward layer's


@pytest.mark.parametrize("mode", ["activation", "matrix"])
def test_training_with_it_takes_the_same_path_under_dropout(mode: str) -> None:
    config = ModelConfig(vocabulary=50, context=12, width=32, layers=2, heads=4, embedding_dropout=mode)  # type: ignore[arg-type]
    gradients = []
    for chunk, pad in ((0, 0), (5, 64)):
        module = LanguageModelling(GPT(config, torch.Generator().manual_seed(1)), chunk, pad)
        torch.manual_seed(3)
        module(torch.arange(39).view(3, 13)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    assert torch.allclose(*gradients, atol=1e-7, rtol=1e-4)


def test_recomputed_activations_change_no_bit_though_dropout_is_on() -> None:
    config = ModelConfig(vocabulary=50, context=12, width=32, layers=3, heads=4)
    gradients = []
    for recompute in (False, True):
        module = LanguageModelling(GPT(config, torch.Generator().manual_seed(1)))
        module.gpt.recompute = recompute
        torch.manual_seed(3)
        module(torch.arange(39).view(3, 13)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)
