"""Books excluded from the loss: the batches stay, their targets count nothing."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.data.sequences import SequenceSampler
from gpt1.data.shards import Shards
from gpt1.errors import UserError
from gpt1.model.gpt import GPT, LanguageModelling
from gpt1.train.dist import DistContext
from gpt1.train.trainer import make_engine, read_share
from tests.gpt1 import tiny_pretraining as tiny
from tests.gpt1.rank_group import RankGroup
from tests.gpt1.tiny_pretraining import CONFIG, MODEL, NEEDS_COMPILER, Place, changed, output_of

SHAPE = dataclasses.replace(MODEL, dropout=0.0)
STEP = 3
Gradient = dict[str, Tensor]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Two of the three training books are excluded."""
    excluded = ("train0", "train1")
    return changed(tiny.write_data(tmp_path), dropout=0.0, exclude_books=excluded)


def sampler_of(place: Place) -> SequenceSampler:
    shards = Shards.open([Path(place.train[0])], Path(place.books), "train")
    return SequenceSampler(shards, SHAPE.context, CONFIG.seed, place.config.exclude_books)


def model() -> GPT:
    return GPT(SHAPE, torch.Generator().manual_seed(5))


def gradient_of(place: Place, chunk: int = 0, compiled: bool = False) -> tuple[float, Gradient]:
    """The mean of the micro-batches' losses, and of their gradients, over all ranks (gloo)."""
    ranks, module = DistContext.connect("cpu", threads=1), LanguageModelling(model(), chunk)
    if compiled:
        module.compile_for_training(one_graph=True)
    share = read_share(sampler_of(place), STEP, place.config, ranks)
    losses = torch.stack([module(*one.inputs) for one in share])
    losses.sum().backward()
    gathered = ranks.gather(losses.detach())  # (world, A)
    parts = {name: ranks.gather(p.grad).sum(0) for name, p in module.named_parameters()}  # type: ignore
    return float(gathered.mean()), {name: g / gathered.numel() for name, g in parts.items()}


def step_of(place: Place) -> tuple[float, float]:
    """A step's loss and gradient norm by DeepSpeed's engine."""
    ranks = DistContext.connect("cpu", threads=1)
    engine = make_engine(LanguageModelling(model()), place.config, ranks)
    outcome = engine.step(STEP, read_share(sampler_of(place), STEP, place.config, ranks), 1e-3)
    return float(ranks.gather(outcome.losses).mean()), float(outcome.gradient_norm)


def agrees(place: Place, *found: tuple[float, Gradient]) -> tuple[float, float]:
    """With a plain computation on the batch without those sequences: its loss and norm."""
    sampler, gpt = sampler_of(place), model()
    kept = sampler.kept(STEP, CONFIG.batch_size)
    assert 1 < np.count_nonzero(kept) < CONFIG.batch_size
    counts = kept.reshape(-1, CONFIG.micro_batch_size).any(1)
    assert not counts.all(), "a micro-batch counts nothing"
    ids = torch.from_numpy(sampler.batch(STEP, CONFIG.batch_size)[kept])
    loss = F.cross_entropy(gpt.lm_logits(gpt(ids[:, :-1])).flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    for one, gradient in found:
        assert one == pytest.approx(loss.item(), abs=1e-6)
        for name, parameter in gpt.named_parameters():
            assert torch.allclose(gradient[f"gpt.{name}"], parameter.grad, rtol=0, atol=1e-6), name
    norms = torch.stack([parameter.grad.norm() for parameter in gpt.parameters()])
    return loss.item(), norms.norm().item()


COMPILED = pytest.param(24, True, marks=[pytest.mark.slow, NEEDS_COMPILER])


@pytest.mark.parametrize(("chunk", "compiled"), [(0, False), (5, False), COMPILED])
def test_the_gradient_is_that_of_the_batch_without_them(
    chunk: int, compiled: bool, place: Place
) -> None:
    agrees(place, gradient_of(place, chunk, compiled))


@pytest.mark.slow
def test_so_is_that_of_two_ranks_with_every_zero_stage(ranks: RankGroup, place: Place) -> None:
    expected = agrees(place, *ranks.call(gradient_of, place), *ranks.call(gradient_of, place, 5))
    for stage in range(4):
        for found in ranks.call(step_of, changed(place, grad_clip=0.0, zero=stage)):
            assert found == pytest.approx(expected, rel=1e-5)


def test_a_book_that_is_never_read_changes_no_bit(tmp_path: Path) -> None:
    """It is shorter than a sequence, so every batch is as without the setting."""
    place = changed(tiny.write_data(tmp_path, poison=5), max_steps=10)
    other = changed(place, output=str(tmp_path / "other"), exclude_books=(tiny.POISON,))
    tiny.train_here(place)
    tiny.train_here(other)
    assert output_of(other) == output_of(place)


def test_a_batch_of_excluded_books_alone_has_neither_loss_nor_gradient(place: Place) -> None:
    """And a killed run resumes to the same bytes."""
    place = changed(place, batch_size=2, micro_batch_size=1, log_every=1, sample_tokens=0)
    tiny.train_here(place)
    sampler, rows = sampler_of(place), [row for row in tiny.rows_of(place) if "lr" in row]
    kept = [bool(sampler.kept(step, 2).any()) for step in range(30)]
    assert 2 < sum(kept) < 30
    assert ["loss" in row for row in rows] == [row["gradient_norm"] > 0 for row in rows] == kept
    again = changed(place, output=f"{place.output}-again")
    tiny.train_until_killed(again, 11)
    assert "resuming after step" in tiny.train_here(again).text
    assert output_of(again) == output_of(place)


@pytest.mark.parametrize(("books", "message"), [
    (("tran1",), r"exclude_books: 'tran1' is none of the 3 training books .* are 'train1', "),
    (("held_out0",), "'held_out0' is none of the 3"),
    (("train0", "train1", "train2"), "all 3 training books are excluded"),
])  # fmt: skip
def test_unknown_books_are_refused(books: tuple[str, ...], message: str, place: Place) -> None:
    with pytest.raises(UserError, match=message):
        tiny.train_here(changed(place, exclude_books=books))
