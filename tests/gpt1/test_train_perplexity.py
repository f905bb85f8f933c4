"""Held-out loss: the mean over all targets, whatever the micro-batch and the number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.evaluate.perplexity import mean_loss, spread
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.model.loss import LanguageModelling, window_losses
from gpt1.train.ranks import Ranks
from gpt1.train.validation import HeldOut

WINDOWS = np.random.default_rng(0).integers(0, 20, (7, 9))


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return Ranks.connect("cpu")


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 50])
def test_every_target_counts_once(micro_batch: int, ranks: Ranks) -> None:
    gpt = GPT(ModelConfig(vocabulary=20, context=8, width=16, layers=1, heads=2), torch.Generator().manual_seed(0)).eval()
    module = LanguageModelling(gpt).eval()

    def loss_of(inputs: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            return module(*inputs)

    with torch.no_grad():
        expected = float(window_losses(gpt, torch.from_numpy(WINDOWS)).double().mean())
    assert mean_loss(loss_of, WINDOWS, micro_batch, ranks) == pytest.approx(expected, rel=1e-6)


def test_no_windows_are_refused(ranks: Ranks) -> None:
    with pytest.raises(UserError, match="there are none"):
        mean_loss(lambda _: torch.tensor(0.0), WINDOWS[:0], 2, ranks)


def test_chosen_windows_are_spread_evenly() -> None:
    assert spread(10, 0).tolist() == list(range(10))
    assert spread(10, 20).tolist() == list(range(10))
    assert spread(10, 5).tolist() == [0, 2, 4, 6, 8]


def test_books_are_measured_apart_and_make_up_the_whole(ranks: Ranks) -> None:
    """Each window's loss is its first id here, so every mean is known."""
    windows = WINDOWS.astype(np.int64)
    held_out = HeldOut(windows, [("one", 0), ("two", 3)], np.full(20, 2))

    def loss_of(inputs: tuple[Tensor, ...]) -> Tensor:
        return inputs[0][:, 0].double().mean()

    one, two = held_out.by_book(loss_of, 2, ranks)
    assert (one["book"], one["windows"], two["windows"]) == ("one", 3, 4)
    assert one["validation_loss"] == pytest.approx(windows[:3, 0].mean())
    assert two["validation_loss"] == pytest.approx(windows[3:, 0].mean())
    whole = held_out.whole([one, two])
    assert whole["validation_loss"] == pytest.approx(windows[:, 0].mean())
    assert whole["validation_bits_per_byte"] == pytest.approx(windows[:, 0].mean() / np.log(2) / 2), "two bytes a token"
    some, count = held_out.measure(loss_of, 5, 2, ranks)
    assert count == 5
    assert some["validation_perplexity"] == pytest.approx(np.exp(some["validation_loss"]))
