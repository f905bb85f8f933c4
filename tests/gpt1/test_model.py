"""The model against section 4.1 of the paper, and the LSTM of section 5 in place of its blocks.

The chunked loss gives the plain one's numbers and gradients, compiled too, in less memory;
recomputing activations changes no bit.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generation import Sampling, generate
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LanguageModelling, attend_in_steps, per_sequence_loss, token_losses
from gpt1.model.loss import chunked_mean_loss
from gpt1.train.engine import MicroBatch, OptimizerConfig, Precision, TorchEngine
from gpt1.weights.hf import export
from gpt1.weights.openai import write_openai
from gpt1.weights.store import load_model, save_model
from tests.conftest import refuses
from tests.gpt1 import weight_samples as samples
from tests.gpt1.tiny_pretraining import NEEDS_COMPILER

SMALL = ModelConfig(vocabulary=50, context=12, width=32, layers=2, heads=4)
LSTM = dataclasses.replace(SMALL, layers=1, units=24, kind="lstm")


def small(config: ModelConfig = SMALL, **changes: Any) -> GPT:
    return GPT(dataclasses.replace(config, **changes), torch.Generator().manual_seed(1))


def ids_of(rows: int = 2, length: int = 12) -> Tensor:
    return torch.randint(0, 50, (rows, length), generator=torch.Generator().manual_seed(0))


def test_full_model_has_the_paper_s_parameters_decayed_and_undecayed() -> None:
    config, lstm = ModelConfig(), ModelConfig(kind="lstm", layers=1)
    with torch.device("meta"):
        sizes = [(p.dim(), p.numel()) for p in GPT(config).parameters()]
        assert sum(p.numel() for p in GPT(lstm).parameters()) == lstm.parameters() == 56_140_544
    assert sum(n for _, n in sizes) == config.parameters() == 116_534_784
    assert sum(n for dims, n in sizes if dims >= 2) == 116_414_976
    assert dataclasses.replace(config, special_tokens=3).parameters() == 116_534_784 + 3 * 768
    assert config.flops_per_token() == pytest.approx(756e6, rel=1e-3)
    assert lstm.flops_per_token() == 6 * lstm.parameters()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"width": 100, "heads": 3}, "not divisible"), ({"dropout": 1.0}, "dropout"),
    ({"vocabulary": 0}, "vocabulary"), ({"embedding_dropout": "rows"}, "embedding_dropout"),
    ({"layers": -1}, "layers"), ({"n_layer": 2}, "n_layer"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "named"), WRONG)
def test_impossible_shapes_are_refused(wrong: dict[str, Any], named: str) -> None:
    config = dataclasses.replace(SMALL, special_tokens=3)
    assert ModelConfig.from_dict(config.to_dict()) == config
    refuses(named, ModelConfig.from_dict, config.to_dict() | wrong)


def test_initial_weights_follow_the_paper() -> None:
    model = small(vocabulary=2000, context=64, width=128)
    for name, values in model.state_dict().items():
        if "ln_" in name or name.endswith("bias"):
            assert bool((values == ("ln_" in name and name.endswith("weight"))).all())
        else:
            assert float(values.std()) == pytest.approx(0.02, rel=0.05), name
    lstm = small(LSTM, width=64, units=96).h[0].lstm
    assert lstm.bias_ih_l0.detach().view(4, 96).sum(-1).tolist() == [0, 96, 0, 0]
    assert not lstm.bias_hh_l0.any()


@pytest.mark.parametrize("config", [SMALL, LSTM])
def test_no_token_sees_a_later_one_and_states_are_normalized(config: ModelConfig) -> None:
    model, ids = small(config).eval(), ids_of()
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 11], after[:, 11])
    assert torch.allclose(before.mean(-1), torch.zeros(2, 12), atol=1e-5)
    refuses("13 tokens", model, torch.zeros(1, 13, dtype=torch.int64))


def test_attention_in_steps_is_the_fused_kernel_s() -> None:
    q, k, v = torch.randn(3, 2, 4, 12, 8, generator=torch.Generator().manual_seed(0))
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(attend_in_steps(q, k, v, 0.0), fused, atol=1e-6)
    torch.manual_seed(0)
    scores = (q @ k.transpose(-1, -2)).flatten(0, 1) / 8**0.5
    later = torch.ones(12, 12, dtype=torch.bool).triu(1)
    weights = F.dropout(scores.masked_fill(later, float("-inf")).softmax(-1), 0.4)
    expected = (weights @ v.flatten(0, 1)).view(2, 4, 12, 8)
    torch.manual_seed(0)
    assert torch.allclose(attend_in_steps(q, k, v, 0.4), expected, atol=1e-6)
    seen = torch.arange(12) < torch.tensor([[[[5]]], [[[12]]]])  # (2, 1, 1, 12): two lengths
    fused = F.scaled_dot_product_attention(q[:, :, :1], k, v, attn_mask=seen)
    assert torch.allclose(attend_in_steps(q[:, :, :1], k, v, 0.0, seen), fused, atol=1e-6)


def test_matrix_dropout_drops_one_matrix_for_look_up_and_softmax() -> None:
    model, ids = small(layers=0, dropout=0.5, embedding_dropout="matrix"), torch.arange(10)[None]
    model.positions_embed.weight.data.zero_()
    hidden = model(ids)  # with no layers and no positions: the dropped rows themselves
    logits, dropped = model.lm_logits(hidden), hidden == 0
    assert 0.3 < float(dropped.float().mean()) < 0.7
    assert torch.allclose(hidden[~dropped], 2 * model.tokens_embed.weight[:10][None][~dropped])
    # the softmax has the same dropped rows: each token's logit with itself is its squared length
    assert torch.allclose(logits[0].diagonal()[:10], (hidden[0] ** 2).sum(-1), atol=1e-6)
    hidden = model.eval()(ids)
    assert torch.equal(model.lm_logits(hidden), F.linear(hidden, model.tokens_embed.weight))


@pytest.mark.parametrize(("mode", "alike"), [("activation", False), ("matrix", True)])
def test_dropout_acts_in_training_only_and_follows_the_seed(mode: str, alike: bool) -> None:
    """Of the matrix it drops a token alike at every position."""
    model, ids = small(dropout=0.3, embedding_dropout=mode), ids_of()
    first, again, other = (torch.manual_seed(seed) and model(ids) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(model.eval()(ids), model(ids))
    rows = small(layers=0, dropout=0.5, embedding_dropout=mode)
    rows.positions_embed.weight.data.zero_()
    hidden = rows(torch.full((1, 12), 7))
    assert torch.equal(hidden[0, 0], hidden[0, 1]) is alike


def test_extending_keeps_old_rows_and_hides_new_ones_from_the_vocabulary() -> None:
    model, ids = small().eval(), ids_of(1)
    before = model.lm_logits(model(ids))
    model.extend(3, torch.Generator().manual_seed(2))
    hidden = model(ids)
    assert (model.config.special_tokens, model.lm_logits(hidden).shape) == (3, (1, 12, 53))
    assert torch.equal(model.vocabulary_logits(hidden), before)
    assert float(model.tokens_embed.weight[50:].detach().std()) == pytest.approx(0.02, rel=0.3)


@torch.no_grad()
def test_the_loss_is_the_mean_over_all_targets_of_each_window_or_sequence() -> None:
    model, windows = small().eval(), ids_of(3, 13)
    logits = model.lm_logits(model(windows[:, :-1]))
    expected = -torch.log_softmax(logits, -1).gather(-1, windows[:, 1:, None]).squeeze(-1)
    assert torch.allclose(token_losses(logits, windows[:, 1:]), expected, atol=1e-6)
    assert torch.allclose(LanguageModelling(model).eval()(windows), expected.mean(), atol=1e-6)
    losses = torch.tensor([[1.0, 3.0, 9.0], [2.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert per_sequence_loss(losses, mask).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("target", ["folder", "snapshots/step-1.safetensors"])
def test_a_model_comes_back_as_it_was(target: str, tmp_path: Path) -> None:
    saved = small()
    saved.extend(3)
    file = save_model(tmp_path / target, saved)
    loaded = load_model(tmp_path / target)
    assert loaded.config == saved.config
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert file.read_bytes() == save_model(tmp_path / "again", loaded).read_bytes()


def test_missing_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    refuses("no model weights", load_model, tmp_path)
    file = save_model(tmp_path, small())
    file.write_bytes(file.read_bytes()[:-9])
    refuses("safetensors file", load_model, tmp_path)
    wrong = small()
    wrong.config = dataclasses.replace(SMALL, layers=1)
    save_model(tmp_path, wrong)
    refuses(r"h\.1", load_model, tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_lstm_learns_is_saved_and_writes(precision: Precision, tmp_path: Path) -> None:
    windows, module = (torch.arange(13) * 3 % 30).repeat(4, 1), LanguageModelling(small(LSTM))
    engine = TorchEngine(module, OptimizerConfig(), seed=0, precision=precision)
    batch = [MicroBatch(0, (windows,))]
    losses = [float(engine.step(n, batch, 1e-2).losses) for n in range(60)]
    assert losses[-1] < 0.3 * losses[0]
    again = load_model(save_model(tmp_path, module.gpt))
    assert torch.equal(again.eval()(windows[:, :12]), module.gpt.eval()(windows[:, :12]))
    draws = [torch.Generator()]
    assert generate(again, [[0]], 3, Sampling(temperature=0), draws) == [[3, 6, 9]]


def test_the_published_forms_refuse_an_lstm(tmp_path: Path) -> None:
    for write, card in ((write_openai, ()), (export, ("",))):
        with pytest.raises(UserError, match="the model is an LSTM"):
            write(tmp_path / "out", small(LSTM), samples.vocabulary(), *card)
    assert not (tmp_path / "out").exists()


PLAIN = [(chunk, pad) for chunk in (0, 1, 7, 33, 64, 130, 1000) for pad in (0, 64)]


def operands() -> tuple[Tensor, ...]:
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


def test_in_chunks_logits_are_never_complete_in_fp32() -> None:
    model = GPT(ModelConfig(vocabulary=1000, context=32, width=8, layers=1, heads=1))
    for chunk in (0, 16):
        with torch.profiler.profile(profile_memory=True) as seen:
            LanguageModelling(model, chunk, chunk * 4)(torch.randint(0, 1000, (8, 33))).backward()
        largest = max(event.self_cpu_memory_usage for event in seen.events())
        # a chunk's logits and the feed-forward layer's are smaller
        assert (largest <= 4 * (16 * 1024 + 8 * 32 * 32)) == bool(chunk)


def gradients(config: ModelConfig, recompute: bool = False, chunk: int = 0) -> Tensor:
    """All of them, after one batch under dropout."""
    module = LanguageModelling(small(config), chunk, 64 if chunk else 0)
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
