"""The model against SPEC section 1."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, attend_in_steps
from gpt1.model.loss import LanguageModelling, per_sequence_loss, window_losses

SMALL = ModelConfig(vocabulary=50, context=12, width=32, layers=2, heads=4)


def small(**changes: object) -> GPT:
    return GPT(ModelConfig(**{**SMALL.to_dict(), **changes}), torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_full_model_has_the_paper_s_parameters_decayed_and_undecayed() -> None:
    with torch.device("meta"):
        model = GPT(ModelConfig())
    sizes = [(p.dim(), p.numel()) for p in model.parameters()]
    assert sum(n for _, n in sizes) == 116_534_784
    assert sum(n for dims, n in sizes if dims >= 2) == 116_414_976
    assert sum(n for dims, n in sizes if dims < 2) == 119_808


def test_initial_weights_follow_the_paper() -> None:
    model = GPT(ModelConfig(vocabulary=2000, context=64, width=128, layers=2, heads=2), torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if "ln_" in name:
            assert torch.equal(parameter, torch.full_like(parameter, 1.0 if name.endswith("weight") else 0.0))
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.02, rel=0.05), name
            assert abs(float(parameter.detach().mean())) < 1e-3, name


def test_no_token_sees_a_later_one() -> None:
    model = small().eval()
    ids = torch.randint(0, 50, (1, 12))
    changed = ids.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 50
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_blocks_end_in_a_layer_norm_and_nothing_follows() -> None:
    hidden = small().eval()(torch.randint(0, 50, (2, 12)))
    assert torch.allclose(hidden.mean(-1), torch.zeros(2, 12), atol=1e-5)
    assert torch.allclose(hidden.var(-1, unbiased=False), torch.ones(2, 12), atol=1e-2)


def test_attention_in_steps_is_the_fused_kernel_s() -> None:
    q, k, v = torch.randn(3, 2, 4, 12, 8, generator=torch.Generator().manual_seed(0))
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(attend_in_steps(q, k, v, 0.0), fused, atol=1e-6)
    torch.manual_seed(0)
    scores = (q @ k.transpose(-1, -2)).flatten(0, 1) / 8**0.5
    weights = F.dropout(scores.masked_fill(torch.ones(12, 12, dtype=torch.bool).triu(1), float("-inf")).softmax(-1), 0.4)
    torch.manual_seed(0)
    assert torch.allclose(attend_in_steps(q, k, v, 0.4), (weights @ v.flatten(0, 1)).view(2, 4, 12, 8), atol=1e-6)


def test_too_long_a_sequence_is_refused() -> None:
    with pytest.raises(UserError, match="13 ids"):
        small()(torch.zeros(1, 13, dtype=torch.int64))


def test_matrix_dropout_drops_one_matrix_for_look_up_and_softmax() -> None:
    model = small(layers=0, dropout=0.5, embedding_dropout="matrix")
    model.positions_embed.weight.data.zero_()
    ids = torch.arange(10)[None]
    hidden = model(ids)  # with no layers and no positions: the dropped rows themselves
    logits = model.lm_logits(hidden)
    dropped = hidden == 0
    assert 0.3 < float(dropped.float().mean()) < 0.7
    assert torch.allclose(hidden[~dropped], 2 * model.tokens_embed.weight[:10][None][~dropped])
    # the same dropped rows stand in the softmax: the logit of each token with itself is its own squared length
    assert torch.allclose(logits[0].diagonal()[:10], (hidden[0] ** 2).sum(-1), atol=1e-6)
    model.eval()
    hidden = model(ids)
    assert torch.equal(model.lm_logits(hidden), F.linear(hidden, model.tokens_embed.weight))


def test_matrix_dropout_drops_a_token_alike_wherever_it_stands() -> None:
    ids = torch.full((1, 12), 7)
    for mode, alike in (("matrix", True), ("activation", False)):
        model = small(layers=0, dropout=0.5, embedding_dropout=mode)
        model.positions_embed.weight.data.zero_()
        hidden = model(ids)
        assert torch.equal(hidden[0, 0], hidden[0, 1]) is alike


@pytest.mark.parametrize("mode", ["activation", "matrix"])
def test_dropout_acts_in_training_only_and_follows_the_seed(mode: str) -> None:
    model = small(dropout=0.3, embedding_dropout=mode)
    ids = torch.randint(0, 50, (2, 12))
    torch.manual_seed(3)
    first = model(ids)
    torch.manual_seed(3)
    assert torch.equal(first, model(ids))
    assert not torch.equal(first, model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))


def test_extending_keeps_old_rows_and_hides_new_ones_from_the_vocabulary() -> None:
    model = small().eval()
    ids = torch.randint(0, 50, (1, 12))
    before = model.lm_logits(model(ids))
    model.extend(3, torch.Generator().manual_seed(2))
    hidden = model(ids)
    assert model.config.special_tokens == 3
    assert model.lm_logits(hidden).shape == (1, 12, 53)
    assert torch.equal(model.vocabulary_logits(hidden), before)
    assert model.tokens_embed.weight.requires_grad
    assert float(model.tokens_embed.weight[50:].detach().std()) == pytest.approx(0.02, rel=0.3)
    model(torch.tensor([[50, 51, 52]]))


def test_the_loss_is_the_mean_over_all_targets_of_the_windows() -> None:
    model = small().eval()
    windows = torch.randint(0, 50, (3, 13))
    logits = model.lm_logits(model(windows[:, :-1]))
    expected = -torch.log_softmax(logits, -1).gather(-1, windows[:, 1:, None]).mean()
    assert float(LanguageModelling(model).eval()(windows)) == pytest.approx(float(expected), rel=1e-6)
    assert window_losses(model, windows).shape == (3, 12)


def test_per_sequence_loss_averages_each_sequence_over_its_own_targets() -> None:
    losses = torch.tensor([[1.0, 3.0, 9.0], [2.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert per_sequence_loss(losses, mask).tolist() == [2.0, 2.0]
