"""The two engines: the same steps give the same weights; a resume is exact; settings files are checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.model.loss import LanguageModelling
from gpt1.train.deepspeed_engine import autocast_inside, make_engine, merge_settings, stage_in_force
from gpt1.train.engine import MicroBatch, TorchEngine
from gpt1.train.loop import train
from gpt1.train.optimiser import OptimiserConfig
from gpt1.train.ranks import Ranks
from tests.conftest import ROOT
from tests.gpt1.tiny_pretraining import launcher, zero

SHAPE = ModelConfig(vocabulary=50, context=8, width=32, layers=2, heads=2)
WORKER = ROOT / "tests" / "gpt1" / "engine_worker.py"
STEPS = 20


def micro_batches(step: int) -> list[MicroBatch]:
    """Four micro-batches of two windows, other ones in every step."""
    draw = torch.Generator().manual_seed(step)
    return [MicroBatch(n, (torch.randint(0, 50, (2, 9), generator=draw),)) for n in range(4)]


def torch_engine(precision: str = "fp32", clip: float = 1.0) -> TorchEngine:
    model = LanguageModelling(GPT(SHAPE, torch.Generator().manual_seed(0)))
    return TorchEngine(model, OptimiserConfig(clip=clip), seed=7, accumulation=4, precision=precision)  # type: ignore[arg-type]


def trained(engine: TorchEngine, start: int = 0, steps: int = STEPS) -> dict[str, torch.Tensor]:
    train(engine, micro_batches, lambda _: 1e-3, steps=steps, start=start)
    return engine.weights()


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize(
    ("stage", "ranks"),
    [(1, 1), pytest.param(0, 1, marks=pytest.mark.slow), *(pytest.param(s, 2, marks=pytest.mark.slow) for s in range(4))],
)
def test_deepspeed_and_torch_agree_after_the_same_steps(stage: int, ranks: int, tmp_path: Path) -> None:
    """fp32, dropout on, clipping active. Adam's first steps are as long as the rate, so 20 of them move weights by about 2e-2; the
    engines may differ by the order of sums alone: at most 2e-5."""
    target = tmp_path / "weights.pt"
    command = [sys.executable, *launcher(ranks), str(WORKER), zero(stage), str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    plain = torch_engine()
    initial = plain.weights()
    expected = trained(plain)
    assert largest_difference(expected, initial) > 5e-3
    assert largest_difference(expected, torch.load(target)) < 2e-5


def test_the_gradient_is_clipped_by_its_global_norm() -> None:
    engine = torch_engine(clip=0.01)
    outcome = engine.step(0, micro_batches(0), 0.0)
    assert outcome.gradient_norm > 0.1
    unclipped = torch_engine(clip=0.0)
    assert unclipped.step(0, micro_batches(0), 0.0).gradient_norm == pytest.approx(float(outcome.gradient_norm))
    first, second = (e.optimiser.state_dict()["state"][0]["exp_avg"] for e in (engine, unclipped))
    assert torch.allclose(first * outcome.gradient_norm / 0.01, second, rtol=1e-3)


def test_accumulated_micro_batches_are_averaged() -> None:
    """With dropout off, four micro-batches give the gradient of one batch of all their windows."""
    shape = ModelConfig(**{**SHAPE.to_dict(), "dropout": 0.0})
    weights = []
    for whole in (False, True):
        model = LanguageModelling(GPT(shape, torch.Generator().manual_seed(0)))
        engine = TorchEngine(model, OptimiserConfig(), seed=7, accumulation=1 if whole else 4)
        parts = micro_batches(0)
        joined = [MicroBatch(0, (torch.cat([part.inputs[0] for part in parts]),))]
        engine.step(0, joined if whole else parts, 1e-3)
        weights.append(engine.optimiser.state_dict()["state"][0]["exp_avg"])
    assert torch.allclose(*weights, atol=1e-8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch_engine_resumes_bit_for_bit(precision: str, tmp_path: Path) -> None:
    undisturbed = trained(torch_engine(precision), steps=10)
    first = torch_engine(precision)
    trained(first, steps=6)
    for write in first.save(tmp_path):
        write()
    second = torch_engine(precision)
    second.load(tmp_path)
    resumed = trained(second, start=6, steps=10)
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_evaluation_has_no_dropout_and_changes_nothing() -> None:
    engine = torch_engine()
    inputs = micro_batches(0)[0].inputs
    before = engine.weights()
    assert float(engine.evaluate(inputs)) == float(engine.evaluate(inputs))
    assert largest_difference(before, engine.weights()) == 0


def test_settings_files_are_completed_from_the_stage_s_settings() -> None:
    merged = merge_settings(Path(zero(2)), world=2, micro_batch=4, accumulation=3, precision="bf16", clip=0.5)
    assert merged["train_batch_size"] == 24
    assert merged["gradient_accumulation_steps"] == 3
    assert merged["gradient_clipping"] == 0.5
    assert merged["bf16"] == {"enabled": True}
    assert merged["zero_optimization"]["stage"] == 2
    assert "auto" not in merged.values()


def test_a_rank_alone_computes_without_deepspeed_whatever_the_stage_unless_asked() -> None:
    alone = Ranks(0, 1, torch.device("cpu"))
    for stage in range(4):
        assert stage_in_force(Path(zero(stage)), alone) == 0
        assert stage_in_force(Path(zero(stage)), alone, zero_on_one_rank=True) == stage
        assert stage_in_force(Path(zero(stage)), Ranks(0, 2, torch.device("cpu"))) == stage
    module = LanguageModelling(GPT(SHAPE))
    settings: dict[str, Any] = {"seed": 0, "micro_batch": 2, "accumulation": 4, "precision": "fp32"}
    engine = make_engine(module, OptimiserConfig(), alone, settings=Path(zero(3)), **settings)
    assert isinstance(engine, TorchEngine)
    with pytest.raises(UserError, match="missing"):
        make_engine(module, OptimiserConfig(), alone, settings=Path("nowhere.json"), **settings)


def test_autocast_holds_inside_a_block_that_switches_it_off() -> None:
    """As DeepSpeed does around its forward on a GPU."""
    module = torch.nn.Linear(4, 4)
    autocast_inside(module, torch.device("cpu"))
    with torch.autocast("cpu", enabled=False):
        assert module(torch.ones(1, 4)).dtype == torch.bfloat16
    assert module.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"zero_optimization": {"stage": 1}, "train_batch_size": 32}', "train_batch_size"),
        ('{"zero_optimization": {"stage": 4}}', "expected 0, 1, 2 or 3"),
        ("{", "JSON"),
    ],
)
def test_settings_files_that_cannot_be_meant_are_refused(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(text)
    with pytest.raises(UserError, match=named):
        merge_settings(file, 1, 1, 1, "fp32", 1.0)
    with pytest.raises(UserError, match="missing"):
        merge_settings(tmp_path / "other.json", 1, 1, 1, "fp32", 1.0)


def test_the_shipped_settings_files_differ_in_their_stage_alone() -> None:
    loaded = [json.loads(Path(zero(stage)).read_text()) for stage in range(4)]
    assert [settings.pop("zero_optimization") for settings in loaded] == [{"stage": stage} for stage in range(4)]
    assert all(settings == loaded[0] for settings in loaded)
