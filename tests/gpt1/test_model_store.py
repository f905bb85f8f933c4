"""Models to safetensors and back, and text out of a model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from gpt1.errors import UserError
from gpt1.generate import Sampling, choose, generate, restrict
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.weights.store import load_config, load_model, save_model

SHAPE = ModelConfig(vocabulary=20, context=8, width=16, layers=2, heads=2)


def model(seed: int = 0) -> GPT:
    return GPT(SHAPE, torch.Generator().manual_seed(seed)).eval()


@pytest.mark.parametrize("target", ["folder", "snapshots/step-1.safetensors"])
def test_a_model_comes_back_as_it_was(target: str, tmp_path: Path) -> None:
    saved = model()
    saved.extend(3)
    file = save_model(tmp_path / target, saved)
    loaded = load_model(tmp_path / target)
    assert loaded.config == saved.config == load_config(file)
    for ours, theirs in zip(saved.parameters(), loaded.parameters(), strict=True):
        assert theirs.requires_grad
        assert torch.equal(ours, theirs)
    if target == "folder":
        assert json.loads((tmp_path / target / "config.json").read_text()) == saved.config.to_dict()
    same, other = (save_model(tmp_path / str(n), m) for n, m in enumerate((loaded, model(1))))
    assert file.read_bytes() == same.read_bytes() != other.read_bytes()


def test_missing_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model weights"):
        load_model(tmp_path)
    file = save_model(tmp_path, model())
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="safetensors file"):
        load_model(tmp_path)
    wrong = GPT(SHAPE)
    wrong.config = dataclasses.replace(SHAPE, layers=1)
    save_model(tmp_path, wrong)
    with pytest.raises(UserError, match=r"h\.1"):
        load_model(tmp_path)


def test_restricting_keeps_the_best_and_never_all_away() -> None:
    logits = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))

    def kept(**rule: float) -> list[int]:
        restricted = restrict(logits, **rule)  # type: ignore[arg-type]
        return torch.isfinite(restricted).nonzero().flatten().tolist()

    assert kept() == [0, 1, 2, 3]
    assert kept(top_k=2) == kept(top_p=0.6) == [1, 3]
    assert kept(top_p=1e-9) == kept(top_k=1, top_p=0.9) == [1]


def test_greedy_takes_the_best_and_sampling_follows_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.2, 0.7, 0.1]))
    draw = torch.Generator().manual_seed(0)
    assert {choose(logits, Sampling(temperature=0), draw) for _ in range(20)} == {1}
    drawn = [choose(logits, Sampling(), draw) for _ in range(2000)]
    assert drawn.count(1) / 2000 == pytest.approx(0.7, abs=0.05)


def test_generated_ids_are_vocabulary_tokens_seeded_and_outgrow_the_context() -> None:
    extended = model()
    extended.extend(3)
    with torch.no_grad():
        extended.tokens_embed.weight[20:] *= 1000  # special rows that would win every time
    draws = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    texts = [generate(extended, [1, 2], 30, Sampling(), draw) for draw in draws]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) == 30
    assert all(0 <= token < 20 for token in texts[0])
