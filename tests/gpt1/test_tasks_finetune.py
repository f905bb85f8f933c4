"""Fine-tuning for real, on a tiny model and tasks it can learn."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks import finetune as tuning
from gpt1.tasks.encoded import Encoded
from gpt1.tasks.table import TASKS
from gpt1.tasks.transforms import SpecialIds, sequences
from gpt1.train.random_state import generator
from gpt1.train.reporter import PrintReporter

CPU = torch.device("cpu")
VOCABULARY = 40
CONFIG = tuning.FinetuneConfig(seed=3, lr=3e-3, epochs=4, batch=16, log_every=5)


def tiny() -> GPT:
    return GPT(ModelConfig(VOCABULARY, 24, 32, 2, 2, init_std=0.1), generator("weights", 1))


def examples(name: str, count: int, seed: int) -> list[Encoded]:
    """The label is whether (choice: where) a certain id is there: any form of input shows it."""
    task, rng, special = TASKS[name], random.Random(seed), SpecialIds.after(VOCABULARY)
    made = []
    for number in range(count):
        label, choice = number % 2, task.kind == "choice"
        marked, plain = (rng.choices(range(10, 40), k=rng.randrange(3, 7)) for _ in range(2))
        if label or choice:
            marked[rng.randrange(len(marked))] = 1
        choices = [[marked, plain], [plain, marked]][label] if choice else []
        texts = [marked] if task.kind in ("classification", "choice") else [plain, marked]
        made.append(Encoded(sequences(task.kind, texts, choices, special, 24), label))
    return made


def task_set(name: str) -> tuning.TaskSet:
    train, dev = examples(name, 240, 1), examples(name, 80, 2)
    return tuning.TaskSet(TASKS[name], train, dev, ("a", "b") * 40)


def tuned(name: str, config: tuning.FinetuneConfig = CONFIG) -> tuple[Any, tuning.Result]:
    data = task_set(name)
    model = tuning.make_task_model(tiny(), data, config)
    return model, tuning.finetune(model, data, config, CPU, PrintReporter())


@pytest.mark.parametrize("name", ["sst2", "rte", "mrpc", "storycloze"])
def test_every_kind_learns(name: str) -> None:
    found = tuned(name, replace(CONFIG, epochs=8))[1].score
    assert found is not None
    assert min(found.values[f"accuracy{group}"] for group in ("", "/a", "/b")) > 90


def test_the_best_epoch_is_kept_with_the_same_bits_every_time() -> None:
    (model, first), (_, again) = tuned("rte"), tuned("rte")
    assert (first.curve, first.predictions) == (again.curve, again.predictions)
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    assert tuned("rte", replace(CONFIG, seed=4, epochs=1))[1].curve != first.curve
    reached = [point["dev_accuracy"] for point in first.curve if "dev_accuracy" in point]
    assert len(reached) == CONFIG.epochs
    assert first.score is not None
    assert (first.score.main, first.best_epoch) == (max(reached), reached.index(max(reached)) + 1)
    data = task_set("rte")
    assert tuning.predict(model, data.dev, data.task, CONFIG, CPU) == first.predictions


def test_the_schedule_is_warm_up_and_a_line_to_zero() -> None:
    curve = tuned("rte", replace(CONFIG, epochs=2, warmup=0.1, log_every=1))[1].curve
    rates = [point["lr"] for point in curve if "lr" in point]
    assert len(rates) == 15 * 2
    assert rates.index(max(rates)) == round(0.1 * 30) - 1
    assert max(rates) == pytest.approx(CONFIG.lr)
    falls = [before - after for before, after in pairwise(rates[3:])]
    assert max(falls) - min(falls) < 1e-9
    assert 0 < rates[-1] < CONFIG.lr / 20
    with pytest.raises(UserError, match="240 training examples do not fill one batch of 500"):
        tuned("rte", replace(CONFIG, batch=500))


def test_only_the_blocks_not_transferred_are_drawn_again() -> None:
    gpt, before = tiny(), tiny().state_dict()
    tuning.reset_blocks(gpt, 1, 9)
    changed = {name[:4] for name, now in gpt.state_dict().items() if not now.equal(before[name])}
    assert changed == {"h.1."}
