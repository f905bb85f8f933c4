"""The estimate for many devices. benchmarks/link.py compares its traffic and times with two hosts and a bounded link."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.estimate import checkpoint_bytes, data_bytes, sent_bytes, update
from tests.conftest import ROOT
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


@pytest.mark.parametrize("module", ["estimate", "describe"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--device", "Foo"], "the peak of 'Foo' is not known"),
        (["--ranks", "0"], "argument --ranks: found '0', expected a whole number of at least 1"),
        (["--mfu", "nan"], "argument --mfu: found 'nan', expected a number above 0"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_words(module: str, given: list[str], said: str) -> None:
    refused(module, given, said)


def test_mistakes_that_one_of_the_two_knows() -> None:
    refused("estimate", ["--link", "0"], "argument --link: found '0', expected a number above 0")
    refused("estimate", ["--ranks", "1,x"], "argument --ranks: found 'x', expected a whole number of at least 1")
    refused("describe", ["--width", "10", "--heads", "3"], "width 10 is not divisible by heads 3")
    refused("describe", ["--zero", "4"], "argument --zero: invalid choice: 4")


def refused(module: str, given: list[str], said: str) -> None:
    """`python -m gpt1.train.MODULE` with these arguments ends with status 2, those words and no traceback."""
    command = [sys.executable, "-m", f"gpt1.train.{module}", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, said in done.stderr, "Traceback" in done.stderr) == (2, "", True, False), done.stderr
