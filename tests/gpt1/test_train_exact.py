"""Training against a plain torch loop over transformers' model, the optimizer against numpy."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LanguageModelling
from gpt1.train.config import PretrainConfig
from gpt1.train.dist import DistContext
from gpt1.train.engine import Engine, MicroBatch, OptimizerConfig, TorchEngine, make_optimizer
from gpt1.train.trainer import Trainer, make_engine
from gpt1.weights.hf import TRANSPOSED, hf_config, hf_weights
from tests.gpt1.rank_group import RankGroup
from tests.gpt1.tiny_pretraining import NEEDS_COMPILER

SHAPE = ModelConfig(vocabulary=97, context=16, width=48, layers=3, heads=4, dropout=0.0)
BATCH, MICRO_BATCH, STEPS, RATE = 8, 2, 50, 1e-3
CLIP = 0.25  # the gradient's norm is above it in every step, so clipping always acts
FUSED = pytest.param(True, marks=[pytest.mark.slow, NEEDS_COMPILER])
BOUND = 1e-4
"""Largest relative error of any tensor: |ours - theirs| / |theirs - initial|, Euclidean norms."""
Weights = dict[str, Tensor]
Trained = tuple[Weights, list[float]]
"""The weights after the last step, and the norm of each step's gradient."""


def initial_model(drop: float = 0.0) -> GPT:
    return GPT(dataclasses.replace(SHAPE, dropout=drop), torch.Generator().manual_seed(5))


def windows(step: int) -> Tensor:
    """The global batch (B, T+1) of a step; ids with a pattern, which can be learned."""
    draw = torch.Generator().manual_seed(step)
    steps = torch.randint(1, 4, (BATCH, SHAPE.context + 1), generator=draw)
    return (steps.cumsum(-1) * 5) % SHAPE.vocabulary


def micro_batches(step: int) -> list[MicroBatch]:
    return [MicroBatch(n, (ids,)) for n, ids in enumerate(windows(step).split(MICRO_BATCH))]


def trained(engine: Engine, rank: int = 0, world: int = 1) -> Trained:
    trainer = Trainer(engine, lambda step: micro_batches(step)[rank::world], lambda _: RATE, STEPS)
    norms = [float(trainer.train_step().gradient_norm) for _ in range(STEPS)]
    trainer.batches.close()
    return engine.weights(), norms


def module_of(dropout: float, fused: bool) -> LanguageModelling:
    """`fused`: the loss in chunks that do not divide, with padded columns."""
    return LanguageModelling(initial_model(dropout), *((20, 64) if fused else ()))


def alone(dropout: float = 0.0, fused: bool = False, **values: float) -> Trained:
    """One rank without DeepSpeed; `fused` compiles model and loss too."""
    torch.compiler.reset()
    module = module_of(dropout, fused)
    if fused:
        module.compile_for_training(one_graph=True)
    config = OptimizerConfig(**{"clip": CLIP, **values})
    return trained(TorchEngine(module, config, seed=7, accumulation=BATCH // MICRO_BATCH))


def on_a_rank(stage: int, dropout: float, fused: bool) -> Trained:
    """The same as a rank of DeepSpeed.

    ZeRO 3 keeps small parameters undivided unless a setting forbids it; no matrix of the paper's is
    small.
    """
    ranks = DistContext.connect("cpu", threads=1)
    divided = {"stage3_param_persistence_threshold": 0}
    config = PretrainConfig(
        batch_size=BATCH, micro_batch_size=MICRO_BATCH, grad_clip=CLIP, seed=7, zero=stage,
        deepspeed={"zero_optimization": divided} if fused else {},
    )
    engine = make_engine(module_of(dropout, fused), config, ranks)
    return trained(engine, ranks.rank, ranks.world)


@pytest.fixture(scope="module")
def plain() -> Weights:
    """After a plain loop over transformers' OpenAIGPTLMHeadModel, in our names and layout."""
    transformers = pytest.importorskip("transformers")
    model = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**hf_config(SHAPE)))
    head = {"lm_head.weight": initial_model().tokens_embed.weight}
    model.load_state_dict({**hf_weights(initial_model()), **head}, strict=False)
    model.train()
    rows = [[p for p in model.parameters() if (p.dim() > 1) is matrix] for matrix in (True, False)]
    groups = [{"params": p, "weight_decay": w} for p, w in zip(rows, (0.01, 0.0), strict=True)]
    adam = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    for step in range(STEPS):
        ids = windows(step)
        logits = model(ids[:, :-1]).logits
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        assert float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)) > CLIP
        adam.step()
        adam.zero_grad()
    theirs = {name.removeprefix("transformer."): p.detach() for name, p in model.named_parameters()}
    return {f"gpt.{name}": p.t() if name.endswith(TRANSPOSED) else p for name, p in theirs.items()}


def without_key_biases(weights: Weights) -> Weights:
    """Softmax does not see the keys' biases: their gradient is noise, which Adam makes large."""
    return {
        name: torch.cat(tensor.chunk(3)[::2]) if name.endswith("c_attn.bias") else tensor
        for name, tensor in weights.items()
    }


def largest_error(ours: Weights, theirs: Weights) -> float:
    """The largest relative error of any tensor (see BOUND)."""
    begun = {f"gpt.{name}": tensor for name, tensor in initial_model().state_dict().items()}
    first, ours, theirs = map(without_key_biases, (begun, ours, theirs))
    assert ours.keys() == theirs.keys() == first.keys()
    return max(float((ours[n] - theirs[n]).norm() / (theirs[n] - first[n]).norm()) for n in ours)


@pytest.mark.parametrize("fused", [False, FUSED])
def test_fifty_steps_give_the_weights_of_a_plain_loop_over_transformers_model(
    fused: bool, plain: Weights
) -> None:
    ours, norms = alone(fused=fused)
    assert min(norms) > CLIP
    assert largest_error(ours, plain) < BOUND


@pytest.mark.slow
@pytest.mark.parametrize("stage", range(4))
def test_so_do_two_ranks_of_every_zero_stage(stage: int, plain: Weights, ranks: RankGroup) -> None:
    """With dropout they give the weights of a rank alone: its numbers are drawn by micro-batch."""
    for fused in (False, True):
        ours, norms = ranks.call(on_a_rank, stage, 0.0, fused)[0]
        assert min(norms) > CLIP
        assert largest_error(ours, plain) < BOUND
    with_dropout, _ = ranks.call(on_a_rank, stage, 0.1, False)[0]
    assert largest_error(with_dropout, alone(dropout=0.1)[0]) < BOUND
    assert largest_error(with_dropout, plain) > 100 * BOUND


@pytest.mark.parametrize("mutant", [{"clip": 0.0}, {"eps": 1e-6}])
def test_mutants_leave_the_bound(mutant: dict[str, float], plain: Weights) -> None:
    assert largest_error(alone(**mutant)[0], plain) > 100 * BOUND


def test_the_reference_optimiser_is_openai_s_adam_of_2018() -> None:
    """Against Adam with decoupled decay in float64, 30 updates at a changing rate."""
    draw = np.random.default_rng(0)
    values = {"matrix": draw.normal(size=(5, 7)), "vector": draw.normal(size=7)}
    module = torch.nn.Module()
    for name, value in values.items():
        module.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value.copy())))
    adam = make_optimizer(module, OptimizerConfig(kind="reference", weight_decay=0.1, eps=1e-3))
    moments = {name: np.zeros((2, *value.shape)) for name, value in values.items()}
    for t in range(1, 31):
        rate = 0.01 * (1 - t / 40)
        for group in adam.param_groups:
            group["lr"] = rate
        for name, value in values.items():
            gradient = draw.normal(size=value.shape)
            module.get_parameter(name).grad = torch.from_numpy(gradient)
            m, v = moments[name]  # views, changed in place
            m[:] = 0.9 * m + 0.1 * gradient
            v[:] = 0.999 * v + 0.001 * gradient**2
            scheduled = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            decay = 0.1 if value.ndim > 1 else 0.0
            values[name] = value - scheduled * (m / (np.sqrt(v) + 1e-3) + decay * value)
        adam.step()
    for name, value in values.items():
        assert np.allclose(module.get_parameter(name).detach(), value, rtol=0, atol=1e-12)
