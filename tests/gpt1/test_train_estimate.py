"""What a training needs, estimated; benchmarks/link.py measures traffic."""

from __future__ import annotations

import dataclasses
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.train import describe, estimate
from gpt1.train.describe import Device, memory, parts
from gpt1.train.estimate import checkpoint_bytes, data_bytes, sent_bytes, update
from tests.gpt1.rank_group import RankGroup
from tests.gpt1.tiny_pretraining import CONFIG, VOCABULARY, changed, train_on, write_data

PAPER = ModelConfig()
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("model", [PAPER, ModelConfig(kind="lstm", layers=1)])
def test_parts_add_up_and_are_the_model_s(model: ModelConfig) -> None:
    found = parts(model)
    assert sum(part.parameters for part in found) == model.parameters()
    assert sum(part.flops for part in found) == pytest.approx(model.flops_per_token())
    with torch.device("meta"):
        blocks = GPT(model).h.parameters()
    assert found[2].parameters == sum(p.numel() for p in blocks)


def test_each_stage_of_zero_shares_more_and_chunks_save_logits() -> None:
    def need(micro_batch: int = 8, ranks: int = 4, zero: int = 1, **more: Any) -> describe.Memory:
        return memory(PAPER, micro_batch=micro_batch, ranks=ranks, zero=zero, bf16=True, **more)

    first, second, third = (need(zero=zero) for zero in (1, 2, 3))
    assert first.total > second.total > third.total
    assert first.optimiser == 12 * PAPER.parameters() // 4
    assert need(64, 1).logits > 5e9 > 1.5e9 > need(64, 1, loss_chunk=4096).logits
    assert need(recompute=True).activations < first.activations / 4


def test_the_plain_values_have_the_paper_s_figures() -> None:
    work = {"batch": 64, "micro_batch": 8, "steps": 1000, "corpus_tokens": 1_000_000}
    found = describe.describe(PAPER, **work, device=Device("A100", 0.5)).to_dict()
    needs = dict(found["memory"])
    assert needs.pop("total") == sum(needs.values())
    figures = [found[name] for name in ("parameters", "tokens", "epochs")]
    assert figures == [116_534_784, 32_768_000, 32.768]
    assert found["flops"] == pytest.approx(32_768_000 * 755.8e6, rel=1e-3)
    assert found["seconds"] == pytest.approx(found["flops"] / (312e12 * 0.5))


def test_what_a_ring_sends_and_an_update_takes() -> None:
    """Of n ranks each sends 1/n in each of n-1 rounds, twice for a sum, once for a gathering."""
    size = PAPER.parameters()
    for n in (1, 2, 8, 64):
        sent = [sent_bytes(size, n, *given) for given in ((0, False), (1, False), (1, True))]
        assert sent == pytest.approx([times * (n - 1) * size / n for times in (8, 12, 6)])
    with pytest.raises(UserError, match="stage 3; expected 0 or 1"):
        sent_bytes(size, 8, 3, bf16=True)
    given = ((1, 100), (8, 100), (8, 50))
    on = {"batch": 64, "device": "H100"}
    one, eight, slow = (update(PAPER, ranks=n, gigabits=gigabits, **on) for n, gigabits in given)
    assert (one.traffic, eight.compute) == (0, pytest.approx(one.compute / 8))
    assert slow.seconds - eight.seconds == pytest.approx(eight.traffic)


@pytest.mark.slow
def test_bytes_of_a_checkpoint(ranks: RankGroup, tmp_path: Path) -> None:
    """Of a real one, by two ranks under ZeRO 1; headers and names are small."""
    model = ModelConfig(vocabulary=VOCABULARY.size, context=8, width=256, layers=2, heads=2)
    config = dataclasses.replace(CONFIG, model=model, steps=1, warmup=0, prompts=())
    place = write_data(tmp_path)
    for only in (True, False):
        output = tmp_path / str(only)
        train_on(ranks, config, changed(place, output=str(output), portable_only=only))
        size = sum(file.stat().st_size for file in output.rglob("checkpoints/*/**/*.*"))
        assert size == pytest.approx(checkpoint_bytes(model.parameters(), only, False), rel=0.02)
    assert 0 < Path(place.train[0]).stat().st_size - data_bytes(360, VOCABULARY.size) < 2000


CASES = [
    (describe, "--json --steps 10", 0, '"parameters": 116534784'),
    (estimate, "--device H100 --ranks 1,8", 0, "\n| 8 |"),
    (describe, "--device Foo", 2, "the peak of 'Foo' is not known"),
    (describe, "--mfu nan", 2, "--mfu: found 'nan', expected a number above 0"),
    (describe, "--width 10 --heads 3", 2, "width 10 is not divisible by heads 3"),
    (estimate, "--ranks 1,x", 2, "--ranks: found 'x', expected a whole number of at"),
]


@pytest.mark.parametrize(("module", "given", "status", "said"), CASES)
def test_the_command_lines(
    module: ModuleType, given: str, status: int, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: Capture,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", [module.__name__, *given.split()])
    with suppress(SystemExit):  # of argparse, which ends with 2
        assert module.main() == status
    printed = capsys.readouterr()
    assert said in (printed.err if status else printed.out)
