"""The model against SPEC section 1, and the LSTM of section 5 in the place of its blocks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generate import Sampling, generate
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, attend_in_steps
from gpt1.model.loss import LanguageModelling, per_sequence_loss, window_losses
from gpt1.train.engine import MicroBatch, Precision, TorchEngine
from gpt1.train.optimiser import OptimiserConfig
from gpt1.weights.hf import export
from gpt1.weights.openai import write_openai
from gpt1.weights.store import load_config, load_model, save_model
from tests.gpt1 import weight_samples as samples

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
        assert GPT(lstm).h[0].lstm.hidden_size == 2048
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
    with pytest.raises(UserError, match=named):
        ModelConfig.from_dict(config.to_dict() | wrong)


def test_initial_weights_follow_the_paper() -> None:
    model = small(vocabulary=2000, context=64, width=128)
    for name, parameter in model.named_parameters():
        if "ln_" in name:
            assert bool((parameter == float(name.endswith("weight"))).all())
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.05), name
            assert abs(float(parameter.detach().mean())) < 1e-3, name
    lstm = small(LSTM, width=64, units=96).h[0].lstm
    assert lstm.bias_ih_l0.detach().view(4, 96).sum(-1).tolist() == [0, 96, 0, 0]
    assert not lstm.bias_hh_l0.any()
    assert float(lstm.weight_hh_l0.detach().std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("config", [SMALL, LSTM])
def test_no_token_sees_a_later_one_and_states_are_normalized(config: ModelConfig) -> None:
    model, ids = small(config).eval(), ids_of()
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 11], after[:, 11])
    assert torch.allclose(before.mean(-1), torch.zeros(2, 12), atol=1e-5)
    if config is SMALL:  # an LSTM's first states are no larger than the norm's epsilon
        assert torch.allclose(before.var(-1, unbiased=False), torch.ones(2, 12), atol=1e-2)
    with pytest.raises(UserError, match="13 ids"):
        model(torch.zeros(1, 13, dtype=torch.int64))


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
    torch.manual_seed(3)
    first = model(ids)
    torch.manual_seed(3)
    assert torch.equal(first, model(ids))
    assert not torch.equal(first, model(ids))
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
    assert model.config.special_tokens == 3
    assert model.lm_logits(hidden).shape == (1, 12, 53)
    assert torch.equal(model.vocabulary_logits(hidden), before)
    assert float(model.tokens_embed.weight[50:].detach().std()) == pytest.approx(0.02, rel=0.3)
    model(torch.tensor([[50, 51, 52]]))


@torch.no_grad()
def test_the_loss_is_the_mean_over_all_targets_of_each_window_or_sequence() -> None:
    model, windows = small().eval(), ids_of(3, 13)
    logits = model.lm_logits(model(windows[:, :-1]))
    expected = -torch.log_softmax(logits, -1).gather(-1, windows[:, 1:, None]).squeeze(-1)
    assert torch.allclose(window_losses(model, windows), expected, atol=1e-6)
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
    assert loaded.config == saved.config == load_config(file)
    for ours, theirs in zip(saved.parameters(), loaded.parameters(), strict=True):
        assert theirs.requires_grad
        assert torch.equal(ours, theirs)
    assert file.read_bytes() == save_model(tmp_path / "again", loaded).read_bytes()


def test_missing_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model weights"):
        load_model(tmp_path)
    file = save_model(tmp_path, small())
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="safetensors file"):
        load_model(tmp_path)
    wrong = small()
    wrong.config = dataclasses.replace(SMALL, layers=1)
    save_model(tmp_path, wrong)
    with pytest.raises(UserError, match=r"h\.1"):
        load_model(tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_lstm_learns_is_saved_and_writes(precision: Precision, tmp_path: Path) -> None:
    windows, module = (torch.arange(13) * 3 % 30).repeat(4, 1), LanguageModelling(small(LSTM))
    engine = TorchEngine(module, OptimiserConfig(), seed=0, precision=precision)
    batch = [MicroBatch(0, (windows,))]
    losses = [float(engine.step(n, batch, 1e-2).losses) for n in range(60)]
    assert losses[-1] < 0.3 * losses[0]
    again = load_model(save_model(tmp_path, module.gpt))
    assert again.config == LSTM
    assert torch.equal(again.eval()(windows[:, :12]), module.gpt.eval()(windows[:, :12]))
    assert generate(again, [0], 3, Sampling(temperature=0), torch.Generator()) == [3, 6, 9]


def test_the_published_forms_refuse_an_lstm(tmp_path: Path) -> None:
    for write, card in ((write_openai, ()), (export, ("",))):
        with pytest.raises(UserError, match="the model is an LSTM"):
            write(tmp_path / "out", small(LSTM), samples.vocabulary(), *card)
    assert not (tmp_path / "out").exists()
