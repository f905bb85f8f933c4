"""Parity with transformers' OpenAIGPTLMHeadModel, with the same random weights and through an exported folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.report.model_card import model_card
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.hf import export, hf_config, hf_weights

transformers = pytest.importorskip("transformers")

SHAPES = [
    pytest.param(ModelConfig(vocabulary=97, context=24, width=48, layers=3, heads=4), id="small"),
    pytest.param(ModelConfig(), id="117M", marks=pytest.mark.slow),
]


def random_model(config: ModelConfig) -> GPT:
    """Initial weights, with biases and layer norms moved off 0 and 1, so that every one of them shows in the logits."""
    draw = torch.Generator().manual_seed(5)
    model = GPT(config, draw).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.01, generator=draw))
    return model


@pytest.mark.parametrize("config", SHAPES)
def test_logits_equal_those_of_transformers(config: ModelConfig) -> None:
    model = random_model(config)
    theirs = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**hf_config(config))).eval()
    missing, unexpected = theirs.load_state_dict(hf_weights(model), strict=False)
    assert missing in ([], ["lm_head.weight"])
    assert unexpected == []
    theirs.tie_weights()
    ids = torch.randint(0, config.vocabulary, (2, config.context), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        difference = (model.lm_logits(model(ids)) - theirs(ids).logits).abs().max()
    assert float(difference) < 1e-5


def tiny_vocabulary() -> Vocabulary:
    return Vocabulary.from_merges(list("abcdeht"), [("t", "h"), ("th", "e</w>"), ("b", "e</w>")])


@pytest.mark.usefixtures("code_of_exports")
def test_exported_folder_loads_in_transformers(tmp_path: Path) -> None:
    vocabulary = tiny_vocabulary()
    config = ModelConfig(vocabulary=vocabulary.size, context=16, width=32, layers=2, heads=4)
    model = random_model(config)
    files = export(tmp_path, model, vocabulary, model_card(config, vocabulary))
    assert sorted(tmp_path.iterdir()) == files

    theirs, info = transformers.OpenAIGPTLMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    ids = torch.randint(0, vocabulary.size, (2, 16))
    with torch.no_grad():
        assert float((model.lm_logits(model(ids)) - theirs.eval()(ids).logits).abs().max()) < 1e-5
    assert theirs.lm_head.weight.data_ptr() == theirs.transformer.tokens_embed.weight.data_ptr()

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    assert tokenizer.get_vocab() == vocabulary.ids
    assert tokenizer.encode("the") == [vocabulary.ids["the</w>"]]
    assert Vocabulary.load(tmp_path).sha256 == vocabulary.sha256
    assert "Do not call `OpenAIGPTTokenizer`" in (tmp_path / "README.md").read_text()
    for found in (theirs.config, theirs.generation_config):
        assert {found.bos_token_id, found.eos_token_id, found.pad_token_id} == {0}
    assert "max_length" not in (tmp_path / "generation_config.json").read_text()


def test_export_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    vocabulary = tiny_vocabulary()
    model = random_model(ModelConfig(vocabulary=vocabulary.size, context=16, width=32, layers=1, heads=4))
    first, second = (export(tmp_path / name, model, vocabulary, "card") for name in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
