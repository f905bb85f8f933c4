"""The loss of one batch of each kind against a straight reading of SPEC section 4, to 1e-6 (in float64)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tasks.encoded import Encoded, make_batch
from gpt1.tasks.finetune import FinetuneConfig, TaskSet, make_task_model
from gpt1.tasks.heads import soft_labels
from gpt1.tasks.table import TASKS, Task
from gpt1.tasks.task_model import TaskModel
from gpt1.tasks.transforms import SpecialIds, sequences
from gpt1.train.random_state import generator
from tests.gpt1 import straight_losses as straight

VOCABULARY, CONTEXT = 60, 48
SPECIAL = SpecialIds.after(VOCABULARY)
TEXTS = [([5, 9, 11, 3], [7, 8]), ([1], [2, 3, 4, 5, 6, 7]), ([12, 13, 14, 15, 16, 17, 18], [19]), ([20, 21], [22, 23, 24])]
CHOICES = [
    ([1, 2], [3], [4, 5, 6], [7]),
    ([8], [9, 10, 11], [12], [13]),
    ([14], [15], [16, 17], [18]),
    ([19], [20], [21], [22, 23]),
]


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def model_for(task: Task, dropout: float = 0.0, **settings: object) -> TaskModel:
    gpt = GPT(
        ModelConfig(vocabulary=VOCABULARY, context=CONTEXT, width=32, layers=2, heads=4, dropout=0.0), generator("weights", 1)
    )
    config = FinetuneConfig(seed=1, classifier_dropout=dropout, **settings)  # type: ignore[arg-type]
    model = make_task_model(gpt, TaskSet(task, [], []), config).double()
    with torch.no_grad():  # larger than at the start, so that mistakes show
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.1, generator=generator("noise", 1)))
    return model


def encoded(task: Task, labels: list[float]) -> list[Encoded]:
    return [
        Encoded(sequences(task.kind, texts, choices if task.kind == "choice" else (), SPECIAL, CONTEXT), label)
        for texts, choices, label in zip(TEXTS, CHOICES, labels, strict=True)
    ]


def loss_of(model: TaskModel, examples: list[Encoded], task: Task) -> Tensor:
    ids, lengths, labels = make_batch(examples, task.regression)
    return model(ids, lengths, labels.double() if task.regression else labels)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("cola", [0, 1, 1, 0]),
        ("snli", [2, 0, 1, 2]),
        ("mrpc", [1, 0, 0, 1]),
        ("race", [3, 0, 2, 1]),
        ("stsb", [0.0, 2.75, 5.0, 4.2]),
    ],
)
def test_task_plus_half_the_language_model(name: str, labels: list[float]) -> None:
    task = TASKS[name]
    model = model_for(task)
    examples = encoded(task, labels)
    weight, bias = model.head.linear.weight, model.head.linear.bias
    rows = [example.sequences for example in examples]
    classes = [int(label) for label in labels]
    if task.kind == "choice":
        expected = straight.choice(model.gpt, weight, bias, rows, classes)
    elif task.regression:
        expected = straight.soft_regression(straight.similarity_logits(model.gpt, weight, bias, rows), labels)
    elif task.kind == "similarity":
        expected = straight.class_losses(straight.similarity_logits(model.gpt, weight, bias, rows), classes)
    else:
        expected = straight.classification(model.gpt, weight, bias, [row[0] for row in rows], classes)
    auxiliary = straight.language_model_loss(model.gpt, [sequence for row in rows for sequence in row])
    assert float(loss_of(model, examples, task)) == pytest.approx(float(expected + 0.5 * auxiliary), abs=1e-6)


def test_without_the_auxiliary_loss() -> None:
    task = TASKS["rte"]
    model = model_for(task, lm_weight=0.0)
    examples = encoded(task, [0, 1, 1, 0])
    head = model.head.linear
    expected = straight.classification(model.gpt, head.weight, head.bias, [e.sequences[0] for e in examples], [0, 1, 1, 0])
    assert float(loss_of(model, examples, task)) == pytest.approx(float(expected), abs=1e-6)


def test_mean_squared_error_as_a_setting() -> None:
    task = TASKS["stsb"]
    model = model_for(task, lm_weight=0.0, regression="mse")
    scores = [0.0, 2.75, 5.0, 4.2]
    examples = encoded(task, scores)
    found = straight.similarity_logits(model.gpt, model.head.linear.weight, model.head.linear.bias, [e.sequences for e in examples])
    expected = ((found[:, 0] - torch.tensor(scores)) ** 2).mean()
    assert float(loss_of(model, examples, task)) == pytest.approx(float(expected), abs=1e-6)


def test_padding_changes_nothing() -> None:
    task = TASKS["rte"]
    model = model_for(task)
    examples = encoded(task, [0, 1, 1, 0])
    ids, lengths, labels = make_batch(examples, False)
    longer = torch.cat([ids, torch.zeros(len(ids), 9, dtype=torch.int64)], 1)
    assert float(model(longer, lengths, labels)) == pytest.approx(float(model(ids, lengths, labels)), abs=1e-9)


def test_answers_of_a_question_share_their_dropout_mask() -> None:
    task = TASKS["race"]
    model = model_for(task, dropout=0.5)
    model.train()
    same = torch.randn(3, 1, 32).expand(3, 4, 32).reshape(12, 32)  # four equal answers to each of three questions
    outputs = model.head(same)
    assert outputs.shape == (3, 4)
    assert torch.allclose(outputs, outputs[:, :1].expand(3, 4))
    other = torch.randn(1, 32).expand(12, 32)
    assert len({round(float(value), 9) for value in model.head(other)[:, 0]}) == 3  # another mask for each question


def test_soft_labels_and_their_expectation() -> None:
    scores = torch.tensor([0.0, 1.25, 4.9, 5.0])
    labels = soft_labels(scores)
    assert labels[1].tolist() == [0, 0.75, 0.25, 0, 0, 0]
    assert labels[3].tolist() == [0, 0, 0, 0, 0, 1]
    assert torch.allclose(labels @ torch.arange(6.0), scores)
    head = model_for(TASKS["stsb"]).head
    assert torch.allclose(head.predict((labels + 1e-30).log()).double(), scores, atol=1e-5)


def test_the_special_rows_are_drawn_from_the_seed() -> None:
    first, again = model_for(TASKS["rte"]), model_for(TASKS["rte"])
    assert first.gpt.tokens_embed.weight.shape == (VOCABULARY + 3, 32)
    assert torch.equal(first.gpt.tokens_embed.weight, again.gpt.tokens_embed.weight)
    gpt = GPT(ModelConfig(vocabulary=1000, context=8, width=768, layers=1, heads=12), generator("weights", 1))
    rows = make_task_model(gpt, TaskSet(TASKS["rte"], [], []), FinetuneConfig()).gpt.tokens_embed.weight[1000:]
    assert float(rows.detach().std()) == pytest.approx(0.02, rel=0.1)
