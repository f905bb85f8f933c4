"""Training against transformers' model under a plain torch loop, and the reference optimiser against numpy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.model.loss import LanguageModelling
from gpt1.train.engine import MicroBatch, TorchEngine
from gpt1.train.loop import train
from gpt1.train.optimiser import OptimiserConfig, make_optimiser
from gpt1.weights.hf import TRANSPOSED, hf_config, hf_weights
from tests.conftest import ROOT
from tests.gpt1.tiny_pretraining import NEEDS_COMPILER, launcher, zero

SHAPE = ModelConfig(vocabulary=97, context=16, width=48, layers=3, heads=4, dropout=0.0)
BATCH, MICRO_BATCH, STEPS, RATE = 8, 2, 50, 1e-3
CLIP = 0.25  # the gradient's norm is above it in every step, so clipping always acts
BOUND = 1e-4
"""Largest relative error of any tensor: |ours - theirs| / |theirs - initial|, in the Euclidean norm."""
MUTANTS = {
    "no clipping": ("0", "1e-8", "-"),
    "decay on layer norms": (str(CLIP), "1e-8", "decay_ln"),
    "another eps": (str(CLIP), "1e-6", "-"),
}


def initial_model() -> GPT:
    return GPT(SHAPE, torch.Generator().manual_seed(5))


def windows(step: int) -> torch.Tensor:
    """The global batch (B, T+1) of a step; ids with a pattern, so that there is something to learn."""
    draw = torch.Generator().manual_seed(step)
    return (torch.randint(1, 4, (BATCH, SHAPE.context + 1), generator=draw).cumsum(-1) * 5) % SHAPE.vocabulary


def micro_batches(step: int) -> list[MicroBatch]:
    return [MicroBatch(n, (ids,)) for n, ids in enumerate(windows(step).split(MICRO_BATCH))]


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    """The weights, under our names and in our layout, after a plain loop over transformers' OpenAIGPTLMHeadModel."""
    transformers = pytest.importorskip("transformers")
    model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**hf_config(SHAPE)))
    model.load_state_dict({**hf_weights(initial_model()), "lm_head.weight": initial_model().tokens_embed.weight}, strict=False)
    model.train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=RATE, betas=(0.9, 0.999), eps=1e-8, fused=False, foreach=False,
    )  # fmt: skip
    for step in range(STEPS):
        ids = windows(step)
        logits = model(ids[:, :-1]).logits
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        assert float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)) > CLIP
        optimiser.step()
        optimiser.zero_grad()
    theirs = {name.removeprefix("transformer."): p.detach() for name, p in model.named_parameters()}
    return {f"gpt.{name}": tensor.t() if name.endswith(TRANSPOSED) else tensor for name, tensor in theirs.items()}


def deepspeed(
    folder: Path, settings: str, ranks: int, clip: str = str(CLIP), eps: str = "1e-8", mutant: str = "-", chunk: int = 0
) -> dict[str, Any]:
    """Weights and norms after the same steps through the DeepSpeed engine, in processes of their own."""
    target = folder / "weights.pt"
    worker = ROOT / "tests" / "gpt1" / "exact_worker.py"
    command = [sys.executable, *launcher(ranks), str(worker), settings, str(target), clip, eps, mutant, str(chunk)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(target)


def without_key_biases(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All but the biases of the keys: softmax does not see them, so their gradient is rounding noise, which Adam makes large."""
    cut = dict(weights)
    for name in [name for name in weights if name.endswith("c_attn.bias")]:
        query, _, value = cut.pop(name).chunk(3)
        cut |= {f"{name}.query": query, f"{name}.value": value}
    return cut


def largest_error(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest relative error of any tensor (see BOUND)."""
    first = without_key_biases({f"gpt.{name}": tensor for name, tensor in initial_model().state_dict().items()})
    ours, theirs = without_key_biases(ours), without_key_biases(theirs)
    assert ours.keys() == theirs.keys() == first.keys()
    return max(float((ours[n] - theirs[n]).norm() / (theirs[n] - first[n]).norm()) for n in ours)


@pytest.mark.parametrize(("stage", "ranks"), [(1, 1), *(pytest.param(stage, 2, marks=pytest.mark.slow) for stage in range(4))])
def test_fifty_steps_give_the_weights_of_a_plain_loop_over_transformers_model(
    stage: int, ranks: int, plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    ours = deepspeed(tmp_path, zero(stage), ranks)
    assert min(ours["norms"]) > CLIP
    error = largest_error(ours["weights"], plain)
    print(f"ZeRO {stage}, {ranks} ranks: largest relative error of a tensor {error:.1e}")
    assert error < BOUND


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=NEEDS_COMPILER)])
def test_a_rank_alone_gives_them_without_deepspeed_too(fused: bool, plain: dict[str, torch.Tensor]) -> None:
    """`fused`: model and loss compiled, in chunks that do not divide, with padded columns."""
    torch.compiler.reset()
    module = LanguageModelling(initial_model(), *((20, 64) if fused else ()))
    if fused:
        module.compile_for_training(one_graph=True)
    engine = TorchEngine(module, OptimiserConfig(clip=CLIP), seed=7, accumulation=BATCH // MICRO_BATCH)
    train(engine, micro_batches, lambda _: RATE, steps=STEPS)
    error = largest_error(engine.weights(), plain)
    print(f"a rank alone, fused {fused}: largest relative error of a tensor {error:.1e}")
    assert error < BOUND


@pytest.mark.slow
def test_the_chunked_and_padded_loss_with_every_parameter_spread_over_the_ranks(
    plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    """ZeRO 3 keeps small parameters whole unless told otherwise; at the paper's size none of the matrices is small."""
    settings = json.loads(Path(zero(3)).read_text())
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    file = tmp_path / "zero3.json"
    file.write_text(json.dumps(settings))
    assert largest_error(deepspeed(tmp_path, str(file), 2, chunk=20)["weights"], plain) < BOUND


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_leave_the_bound(mutant: str, plain: dict[str, torch.Tensor], tmp_path: Path) -> None:
    error = largest_error(deepspeed(tmp_path, zero(1), 1, *MUTANTS[mutant])["weights"], plain)
    print(f"{mutant}: largest relative error of a tensor {error:.1e}")
    assert error > 100 * BOUND


def test_the_reference_optimiser_is_openai_s_adam_of_2018() -> None:
    """Against the formulas of SPEC section 3 in float64, over 30 updates at a changing rate."""
    draw = np.random.default_rng(0)
    shapes = {"matrix": (5, 7), "vector": (7,)}
    values = {name: draw.normal(size=shape) for name, shape in shapes.items()}
    module = torch.nn.Module()
    for name, value in values.items():
        module.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value.copy())))
    optimiser = make_optimiser(module, OptimiserConfig(kind="reference", weight_decay=0.1, eps=1e-3))
    moments = {name: [np.zeros(shape), np.zeros(shape)] for name, shape in shapes.items()}
    for t in range(1, 31):
        rate = 0.01 * (1 - t / 40)
        for group in optimiser.param_groups:
            group["lr"] = rate
        for name, value in values.items():
            gradient = draw.normal(size=value.shape)
            module.get_parameter(name).grad = torch.from_numpy(gradient)
            m, v = moments[name]
            m[:] = 0.9 * m + 0.1 * gradient
            v[:] = 0.999 * v + 0.001 * gradient**2
            scheduled = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            decay = 0.1 if value.ndim > 1 else 0.0
            values[name] = value - scheduled * (m / (np.sqrt(v) + 1e-3) + decay * value)
        optimiser.step()
    for name, value in values.items():
        assert np.allclose(module.get_parameter(name).detach().numpy(), value, rtol=0, atol=1e-12)


def test_the_two_optimisers_differ_first_in_the_decay() -> None:
    """Without gradient torch shrinks by rate x decay, the reference by the bias-corrected rate x decay."""
    shrunk = {}
    for kind in ("adamw", "reference"):
        module = torch.nn.Linear(2, 2, bias=False)
        torch.nn.init.ones_(module.weight)
        optimiser = make_optimiser(module, OptimiserConfig(weight_decay=0.5, kind=kind))  # type: ignore[arg-type]
        optimiser.param_groups[0]["lr"] = 0.1
        module.weight.grad = torch.zeros(2, 2)
        optimiser.step()
        shrunk[kind] = 1 - float(module.weight.detach()[0, 0])
    assert shrunk["adamw"] == pytest.approx(0.05, rel=1e-5)
    assert shrunk["reference"] == pytest.approx(0.05 * (0.001**0.5) / 0.1, rel=1e-4)
