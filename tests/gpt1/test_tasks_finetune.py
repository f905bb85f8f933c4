"""Fine-tuning for real, on a tiny model and tasks it can learn."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.batches import epoch_order
from gpt1.tasks.encoded import Encoded
from gpt1.tasks.finetune import FinetuneConfig, Result, TaskSet, finetune, make_task_model, predict, reset_blocks
from gpt1.tasks.table import TASKS
from gpt1.tasks.transforms import SpecialIds, sequences
from gpt1.train.random_state import generator

CPU = torch.device("cpu")
VOCABULARY = 40
CONFIG = FinetuneConfig(seed=3, lr=3e-3, epochs=4, batch=16, log_every=5)


class Curves:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.points: list[tuple[int, Mapping[str, float]]] = []

    def say(self, text: str) -> None:
        pass

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        pass

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, values))


def tiny(seed: int = 1) -> GPT:
    return GPT(
        ModelConfig(vocabulary=VOCABULARY, context=24, width=32, layers=2, heads=2, dropout=0.1, init_std=0.1),
        generator("weights", seed),
    )


def examples(name: str, count: int, seed: int) -> list[Encoded]:
    """The label is whether (choice: where) a certain id stands: found in any form of input, hard for none."""
    task, rng, special = TASKS[name], random.Random(seed), SpecialIds.after(VOCABULARY)
    made = []
    for number in range(count):
        label = number % 2
        marked = [rng.randrange(10, 40) for _ in range(rng.randrange(3, 7))]
        plain = [rng.randrange(10, 40) for _ in range(rng.randrange(3, 7))]
        if label or task.kind == "choice":
            marked[rng.randrange(len(marked))] = 1
        choices = [plain, marked] if label else [marked, plain]
        texts = [marked] if task.kind in ("classification", "choice") else [plain, marked]
        made.append(Encoded(sequences(task.kind, texts, choices if task.kind == "choice" else (), special, 24), label))
    return made


def task_set(name: str) -> TaskSet:
    return TaskSet(TASKS[name], examples(name, 240, 1), examples(name, 80, 2), ("a", "b") * 40)


def tuned(data: TaskSet, config: FinetuneConfig = CONFIG, reporter: Curves | None = None) -> Result:
    return finetune(make_task_model(tiny(), data, config), data, config, CPU, reporter or Curves())


@pytest.mark.parametrize("name", ["sst2", "rte", "mrpc", "storycloze"])
def test_every_kind_learns(name: str) -> None:
    found = tuned(task_set(name), FinetuneConfig(**{**vars(CONFIG), "epochs": 10})).score
    assert found is not None
    assert found.values["accuracy"] > 95
    assert {"accuracy/a", "accuracy/b"} <= found.values.keys()


def test_the_same_bits_every_time() -> None:
    first, again = tuned(task_set("rte")), tuned(task_set("rte"))
    assert first.curve == again.curve
    assert first.predictions == again.predictions
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    other = tuned(task_set("rte"), FinetuneConfig(**{**vars(CONFIG), "seed": 4}))
    assert other.curve != first.curve


def test_the_best_epoch_is_kept() -> None:
    data, curves = task_set("rte"), Curves()
    model = make_task_model(tiny(), data, CONFIG)
    result = finetune(model, data, CONFIG, CPU, curves)
    reached = [values["dev_accuracy"] for _, values in curves.points if "dev_accuracy" in values]
    assert len(reached) == CONFIG.epochs
    assert result.score is not None
    assert result.score.main == max(reached)
    assert result.best_epoch == reached.index(max(reached)) + 1
    assert predict(model, data.dev, data.task, CONFIG, CPU) == result.predictions


def test_the_schedule_is_warm_up_and_a_line_to_zero() -> None:
    curves = Curves()
    tuned(task_set("rte"), FinetuneConfig(**{**vars(CONFIG), "warmup": 0.1, "log_every": 1}), curves)
    rates = [values["lr"] for _, values in curves.points if "lr" in values]
    assert len(rates) == 15 * CONFIG.epochs
    assert rates.index(max(rates)) == round(0.1 * 60) - 1
    assert max(rates) == pytest.approx(CONFIG.lr)
    falls = [before - after for before, after in pairwise(rates[6:])]
    assert max(falls) - min(falls) < 1e-9
    assert 0 < rates[-1] < CONFIG.lr / 50


def test_pieces_of_a_batch_give_the_same_gradient() -> None:
    data = task_set("rte")
    still = FinetuneConfig(**{**vars(CONFIG), "classifier_dropout": 0.0, "epochs": 1})

    def weights(accumulation: int) -> dict[str, torch.Tensor]:
        gpt = GPT(ModelConfig(vocabulary=VOCABULARY, context=24, width=32, layers=2, heads=2, dropout=0.0), generator("weights", 1))
        config = FinetuneConfig(**{**vars(still), "accumulation": accumulation})
        return finetune(make_task_model(gpt, data, config), data, config, CPU, Curves()).weights

    whole, pieces = weights(1), weights(4)
    assert max(float((whole[name] - pieces[name]).abs().max()) for name in whole) < 1e-3


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own() -> None:
    first, second = epoch_order(50, 1, 0), epoch_order(50, 1, 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == epoch_order(50, 1, 0)


def test_fewer_examples_than_a_batch_are_refused() -> None:
    data = task_set("rte")
    with pytest.raises(UserError, match="240 training examples do not fill one batch of 500"):
        tuned(data, FinetuneConfig(**{**vars(CONFIG), "batch": 500}))


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_only_the_blocks_not_transferred_are_drawn_anew(kept: int) -> None:
    gpt, before = tiny(), tiny()
    reset_blocks(gpt, kept, 9)
    for number, (block, old) in enumerate(zip(gpt.h, before.h, strict=True)):
        same = torch.equal(block.attn.c_attn.weight, old.attn.c_attn.weight)  # type: ignore[union-attr, arg-type]
        assert same == (number < kept)
    assert torch.equal(gpt.tokens_embed.weight, before.tokens_embed.weight)
    assert torch.equal(gpt.positions_embed.weight, before.positions_embed.weight)
