"""The estimate for many devices. benchmarks/link.py compares its traffic and times with two hosts and a bounded link."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.estimate import checkpoint_bytes, data_bytes, sent_bytes, update
from tests.gpt1.tiny_pretraining import CONFIG, VOCABULARY, changed, run, write_data


def test_what_a_ring_sends() -> None:
    """Counted step by step: of n ranks each sends a piece of 1/n in each of n-1 rounds, twice for a sum, once for a gathering."""
    parameters = 116_534_784
    for ranks in (1, 2, 8, 64):
        rounds = (ranks - 1) * parameters / ranks
        assert sent_bytes(parameters, ranks, 0, bf16=False) == pytest.approx(4 * 2 * rounds)
        assert sent_bytes(parameters, ranks, 1, bf16=False) == pytest.approx(4 * 3 * rounds)
        assert sent_bytes(parameters, ranks, 1, bf16=True) == pytest.approx(2 * 3 * rounds)
    with pytest.raises(UserError, match="stage 3; expected 0 or 1"):
        sent_bytes(parameters, 8, 3, bf16=True)


def test_an_update() -> None:
    one = update(ModelConfig(), batch=64, ranks=1, device="H100", gigabits=100)
    eight = update(ModelConfig(), batch=64, ranks=8, device="H100", gigabits=100)
    assert one.traffic == 0
    assert eight.compute == pytest.approx(one.compute / 8)
    assert update(ModelConfig(), batch=64, ranks=8, device="H100", gigabits=50).traffic == pytest.approx(2 * eight.traffic)
    assert eight.seconds == eight.compute + eight.traffic


@pytest.mark.parametrize("portable_only", [True, False])
def test_bytes_of_a_checkpoint_and_of_shards(tmp_path: Path, portable_only: bool) -> None:
    """Of a real one, by two ranks under ZeRO 1; headers and names are small beside so many parameters."""
    model = ModelConfig(vocabulary=VOCABULARY.size, context=8, width=256, layers=2, heads=2)
    place = write_data(tmp_path)
    run(dataclasses.replace(CONFIG, model=model, steps=1, warmup=0, prompts=()), changed(place, portable_only=portable_only), 2)
    [folder] = (tmp_path / "output" / "checkpoints").iterdir()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size == pytest.approx(checkpoint_bytes(model.parameters(), portable_only, bf16=False), rel=0.02)
    shard = Path(place.train[0]).stat().st_size
    assert data_bytes(360, VOCABULARY.size) < shard < data_bytes(360, VOCABULARY.size) + 2000
