"""The LSTM of SPEC section 5 in the place of the blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpt1.errors import UserError
from gpt1.generate import Sampling, generate
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.model.loss import LanguageModelling
from gpt1.train.engine import MicroBatch, TorchEngine
from gpt1.train.optimiser import OptimiserConfig
from gpt1.weights.hf import export
from gpt1.weights.openai import write_openai
from gpt1.weights.store import load_model, save_model
from tests.gpt1 import weight_samples as samples

SMALL = ModelConfig(vocabulary=30, context=12, width=16, layers=1, heads=1, units=24, kind="lstm")


def small() -> GPT:
    return GPT(SMALL, torch.Generator().manual_seed(1))


def test_the_paper_s_has_one_layer_of_2048_units_between_the_paper_s_embeddings() -> None:
    config = ModelConfig(kind="lstm", layers=1)
    with torch.device("meta"):
        model = GPT(config)
    assert model.h[0].lstm.hidden_size == 2048
    assert sum(p.numel() for p in model.parameters()) == config.parameters() == 56_140_544
    assert config.flops_per_token() == 6 * config.parameters()


def test_no_token_sees_a_later_one_and_states_have_a_block_s_shape_and_scale() -> None:
    model = small().eval()
    ids = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 30
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 11], after[:, 11]), "the state carries on"
    assert before.shape == (2, 12, 16)
    assert torch.allclose(before.mean(-1), torch.zeros(2, 12), atol=1e-5)


def test_initial_weights() -> None:
    block = GPT(ModelConfig(vocabulary=30, context=8, width=64, layers=1, heads=1, units=96, kind="lstm")).h[0]
    biases = block.lstm.bias_ih_l0.detach().view(4, 96)
    assert biases.sum(-1).tolist() == [0, 96, 0, 0]
    assert not block.lstm.bias_hh_l0.any()
    assert float(block.lstm.weight_hh_l0.detach().std()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_is_saved_and_writes(precision: str, tmp_path: Path) -> None:
    windows = (torch.arange(13) * 3 % 30).repeat(4, 1)
    engine = TorchEngine(LanguageModelling(small()), OptimiserConfig(), seed=0, precision=precision)  # type: ignore[arg-type]
    losses = [float(engine.step(n, [MicroBatch(0, (windows,))], 1e-2).losses) for n in range(60)]
    assert losses[-1] < 0.3 * losses[0]
    model = engine.module.gpt
    again = load_model(save_model(tmp_path, model))
    assert again.config == SMALL
    assert torch.equal(again.eval()(windows[:, :12]), model.eval()(windows[:, :12]))
    assert generate(again, [0], 3, Sampling(temperature=0), torch.Generator()) == [3, 6, 9]


@pytest.mark.parametrize("write", [write_openai, lambda folder, model, vocabulary: export(folder, model, vocabulary, "")])
def test_the_published_forms_refuse_it(write: Callable[..., object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the model is an LSTM"):
        write(tmp_path / "out", small(), samples.vocabulary())
    assert not (tmp_path / "out").exists()
