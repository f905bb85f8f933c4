"""What a training needs, told beforehand."""

from __future__ import annotations

import json

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.train.describe import Device, describe, expected_seconds, memory, parts

PAPER = ModelConfig()


@pytest.mark.parametrize("model", [PAPER, ModelConfig(kind="lstm", layers=1)])
def test_parts_add_up(model: ModelConfig) -> None:
    found = parts(model)
    assert sum(part.parameters for part in found) == model.parameters()
    assert sum(part.flops for part in found) == pytest.approx(model.flops_per_token())


def test_parts_are_the_model_s() -> None:
    with torch.device("meta"):
        model = GPT(PAPER)
    blocks = next(part for part in parts(PAPER) if part.name == "12 x block")
    assert blocks.parameters == sum(p.numel() for p in model.h.parameters())


def test_each_stage_of_zero_shares_more_and_chunks_save_logits() -> None:
    needs = [memory(PAPER, micro_batch=8, ranks=4, zero=zero, bf16=True) for zero in (1, 2, 3)]
    assert needs[0].total > needs[1].total > needs[2].total
    assert needs[0].optimiser == 12 * PAPER.parameters() // 4
    whole, chunked = (memory(PAPER, micro_batch=64, ranks=1, zero=1, bf16=True, loss_chunk=chunk) for chunk in (0, 4096))
    assert whole.logits > 5e9 > 1.5e9 > chunked.logits
    assert memory(PAPER, micro_batch=8, ranks=1, zero=1, bf16=True, recompute=True).activations < needs[0].activations / 4


def test_time_is_the_flops_over_the_peak() -> None:
    seconds = expected_seconds(PAPER, 1e9, "NVIDIA A100-SXM4-80GB", ranks=2, mfu=0.5)
    assert seconds == pytest.approx(1e9 * 755.8e6 / (312e12 * 2 * 0.5), rel=1e-3)
    with pytest.raises(UserError, match="Toaster"):
        expected_seconds(PAPER, 1e9, "Toaster", ranks=1)


def test_the_text_names_the_paper_s_figures() -> None:
    text = str(describe(PAPER, batch=64, micro_batch=8, steps=1000, corpus_tokens=1_000_000, device=Device("H100")))
    for figure in ("116,534,784", "755.8", "32,768,000 tokens, 32.77 epochs", "1 x H100"):
        assert figure in text, text


def test_the_plain_values_are_those_of_the_text() -> None:
    found = describe(PAPER, batch=64, micro_batch=8, steps=1000, corpus_tokens=1_000_000, device=Device("A100", 0.5)).to_dict()
    assert found["parameters"] == sum(part["parameters"] for part in found["parts"]) == PAPER.parameters()
    assert found["memory"]["total"] == sum(value for name, value in found["memory"].items() if name != "total")
    assert (found["tokens"], found["epochs"]) == (32_768_000, 32.768)
    assert found["seconds"] == pytest.approx(found["flops"] / (312e12 * 0.5))
    assert json.loads(json.dumps(found)) == found | {"parts": list(found["parts"])}
