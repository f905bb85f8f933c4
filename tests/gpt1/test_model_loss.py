"""The chunked loss gives the plain one's numbers and gradients, compiled too, and never makes the logits whole; recomputing changes
no bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt1.model.chunked_loss import chunked_mean_loss
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.model.loss import LanguageModelling
from gpt1.train.engine import MicroBatch, TorchEngine
from gpt1.train.optimiser import OptimiserConfig
from tests.gpt1.tiny_pretraining import NEEDS_COMPILER

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


Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def with_ignored(rows: int, vocabulary: int) -> Operands:
    """Operands of another size, two ranges of whose targets do not count: one inside a chunk, one over several."""
    draw = torch.Generator().manual_seed(1)
    hidden, matrix = (torch.randn(n, 48, generator=draw).requires_grad_() for n in (rows, vocabulary))
    targets = torch.randint(0, vocabulary, (rows,), generator=draw)
    targets[3:9] = -1
    targets[40:95] = -100
    return hidden, matrix, targets


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def errors(compiled: bool, operands: Operands, chunk: int, pad: int, bf16: bool) -> tuple[float, float, float]:
    """Relative errors of loss, hidden gradient and matrix gradient against torch's cross-entropy over all logits at once, with the
    same type of products."""
    hidden, matrix, targets = operands
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        whole = F.cross_entropy(F.linear(hidden, matrix).float(), targets.where(targets >= 0, -100))
        loss = chunked_mean_loss(hidden, matrix, targets, chunk, pad, compiled)
    expected = (whole, *torch.autograd.grad(whole * 3, (hidden, matrix)))
    found = (loss, *torch.autograd.grad(loss * 3, (hidden, matrix)))
    assert [tensor.dtype for tensor in found] == [torch.float32] * 3
    first, second, third = (relative_error(*pair) for pair in zip(found, expected, strict=True))
    return first, second, third


@pytest.mark.parametrize(
    ("compiled", "bf16"),
    [(False, False), (False, True), *(pytest.param(True, bf16, marks=NEEDS_COMPILER) for bf16 in (False, True))],
)
def test_the_fused_path_is_within_its_tolerance_of_plain_cross_entropy(compiled: bool, bf16: bool) -> None:
    """fp32: 1e-6 of loss and gradients, in the Euclidean norm. bf16: 1e-6 of the loss, whose logits are the same; 5e-3 of the
    gradients, since d loss / d logits is rounded to bf16 (a relative 2^-8 at most) here before, there after the mean is taken.
    Chunks that do not divide, padded columns, ignored ranges."""
    torch.compiler.reset()
    for chunk, pad in ((0, 0), (33, 64), (64, 0)):
        loss, *gradients = errors(compiled, with_ignored(130, 1001), chunk, pad, bf16)
        assert loss < 1e-6
        assert max(gradients) < (5e-3 if bf16 else 1e-6)


def test_targets_that_do_not_count_have_no_gradient_and_change_none() -> None:
    hidden, matrix, targets = with_ignored(130, 200)
    found = torch.autograd.grad(chunked_mean_loss(hidden, matrix, targets, 33), (hidden, matrix))
    counted = targets >= 0
    alone = torch.autograd.grad(chunked_mean_loss(hidden[counted], matrix, targets[counted], 0), (hidden, matrix))
    assert not bool(found[0][~counted].any())
    assert max(relative_error(*pair) for pair in zip(found, alone, strict=True)) < 1e-6
    none = chunked_mean_loss(hidden, matrix, torch.full_like(targets, -1), 33)
    assert float(none.detach()) == 0.0


@NEEDS_COMPILER
@pytest.mark.parametrize("one_graph", [True, False])
def test_a_compiled_model_makes_the_updates_of_the_plain_one(one_graph: bool) -> None:
    """Without dropout, whose random numbers the compiler draws in its own way. Evaluation is not compiled."""
    torch.compiler.reset()
    counters.clear()
    config = ModelConfig(vocabulary=101, context=12, width=32, layers=2, heads=4, dropout=0.0)
    windows = [torch.randint(0, 101, (3, 13), generator=torch.Generator().manual_seed(step)) for step in range(4)]
    ends = []
    for compiled in (False, True):
        module = LanguageModelling(GPT(config, torch.Generator().manual_seed(1)), 7, 64)
        if compiled:
            module.compile_for_training(one_graph)
        engine = TorchEngine(module, OptimiserConfig(), seed=0)
        for step, ids in enumerate(windows):
            engine.step(step, [MicroBatch(0, (ids,))], 1e-3)
        ends.append(engine.weights())
        graphs = counters["stats"]["unique_graphs"]
        assert (graphs > 0) == compiled
        engine.evaluate((windows[0][:1],))
        assert counters["stats"]["unique_graphs"] == graphs
    for name, expected in ends[0].items():
        assert torch.allclose(ends[1][name], expected, atol=2e-5), name


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
