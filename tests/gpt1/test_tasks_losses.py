"""The loss of one batch of each kind against a straight reading of SPEC section 4, to 1e-6."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from gpt1.tasks.encoded import Encoded, make_batch
from gpt1.tasks.finetune import FinetuneConfig, TaskSet, make_task_model
from gpt1.tasks.heads import soft_labels
from gpt1.tasks.table import TASKS, Task
from gpt1.tasks.task_model import TaskModel
from gpt1.tasks.transforms import SpecialIds, sequences
from gpt1.train.random_state import generator
from tests.gpt1 import straight_losses as straight
from tests.gpt1 import weight_samples as samples

VOCABULARY, CONTEXT = 60, 48
SPECIAL = SpecialIds.after(VOCABULARY)
TEXTS = [
    ([5, 9, 11, 3], [7, 8]), ([1], [2, 3, 4, 5, 6, 7]), ([*range(12, 19)], [19]),
    ([20, 21], [22, 23, 24]),
]  # fmt: skip
CHOICES = [
    ([1, 2], [3], [4, 5, 6], [7]), ([8], [9, 10, 11], [12], [13]), ([14], [15], [16, 17], [18]),
    ([19], [20], [21], [22, 23]),
]  # fmt: skip
SCORES = [0.0, 2.75, 5.0, 4.2]


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def model_for(task: Task, dropout: float = 0.0, **settings: Any) -> TaskModel:
    gpt = samples.model(1, VOCABULARY, context=CONTEXT, dropout=0.0)
    config = FinetuneConfig(seed=1, classifier_dropout=dropout, **settings)
    model = make_task_model(gpt, TaskSet(task, [], []), config).double()
    with torch.no_grad():  # larger than at the start, so that mistakes show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator("noise", 1)))
    return model


def encoded(task: Task, labels: Sequence[float]) -> list[Encoded]:
    choices = CHOICES if task.kind == "choice" else [()] * len(labels)
    return [
        Encoded(sequences(task.kind, texts, answers, SPECIAL, CONTEXT), label)
        for texts, answers, label in zip(TEXTS, choices, labels, strict=True)
    ]


def loss_of(model: TaskModel, examples: list[Encoded], task: Task) -> float:
    ids, lengths, labels = make_batch(examples, task.regression)
    return float(model(ids, lengths, labels.double() if task.regression else labels).detach())


def task_loss(model: TaskModel, rows: list[list[list[int]]], labels: list[float]) -> Tensor:
    gpt, weight, bias = model.gpt, model.head.linear.weight, model.head.linear.bias
    classes = [int(label) for label in labels]
    if model.head.kind == "choice":
        return straight.choice(gpt, weight, bias, rows, classes)
    if model.head.kind != "similarity":
        return straight.classification(gpt, weight, bias, [row[0] for row in rows], classes)
    logits = straight.similarity_logits(gpt, weight, bias, rows)
    if model.head.regression == "mse":
        return ((logits[:, 0] - torch.tensor(labels)) ** 2).mean()
    if model.head.regression == "soft":
        return straight.soft_regression(logits, labels)
    return straight.class_losses(logits, classes)


LOSSES: list[tuple[str, list[float], dict[str, Any]]] = [
    ("cola", [0, 1, 1, 0], {}), ("snli", [2, 0, 1, 2], {}), ("mrpc", [1, 0, 0, 1], {}),
    ("race", [3, 0, 2, 1], {}), ("stsb", SCORES, {}), ("rte", [0, 1, 1, 0], {"lm_weight": 0.0}),
    ("stsb", SCORES, {"lm_weight": 0.0, "regression": "mse"}),
]


@pytest.mark.parametrize(("name", "labels", "settings"), LOSSES)
def test_task_and_auxiliary_loss(name: str, labels: list[float], settings: dict[str, Any]) -> None:
    """And a batch has the mean of its examples alone: padding and company change nothing."""
    task = TASKS[name]
    model, examples = model_for(task, **settings), encoded(task, labels)
    rows = [example.sequences for example in examples]
    auxiliary = straight.language_model_loss(model.gpt, [one for row in rows for one in row])
    weight = 0.0 if settings else 0.5
    expected = float((task_loss(model, rows, labels) + weight * auxiliary).detach())
    assert loss_of(model, examples, task) == pytest.approx(expected, abs=1e-6)
    alone = [loss_of(model, [example], task) for example in examples]
    assert loss_of(model, examples[::-1], task) == pytest.approx(sum(alone) / 4, abs=1e-6)


def test_answers_of_a_question_share_their_dropout_mask() -> None:
    model = model_for(TASKS["race"], dropout=0.5).train()
    same = torch.randn(3, 1, 32).expand(3, 4, 32).reshape(12, 32)  # four equal answers to each
    outputs = model.head(same)
    assert outputs.shape == (3, 4)
    assert torch.allclose(outputs, outputs[:, :1].expand(3, 4))
    other = model.head(torch.randn(1, 32).expand(12, 32))[:, 0].tolist()
    assert len({round(value, 9) for value in other}) == 3  # another mask for each question


def test_soft_labels_and_their_expectation() -> None:
    scores = torch.tensor([0.0, 1.25, 4.9, 5.0])
    labels = soft_labels(scores)
    assert labels[1].tolist() == [0, 0.75, 0.25, 0, 0, 0]
    head = model_for(TASKS["stsb"]).head
    assert torch.allclose(head.predict((labels + 1e-30).log()).double(), scores, atol=1e-5)
