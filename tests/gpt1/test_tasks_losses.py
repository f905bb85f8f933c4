"""Fine-tuning: losses against a straight reading of section 3.2, and tasks that are learned."""

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.rng import generator
from gpt1.tasks import finetune as tuning
from gpt1.tasks.config import FinetuneConfig
from gpt1.tasks.dataset import InputSpec, SpecialIds, TokenizedExample, make_batch, sequences
from gpt1.tasks.finetune import TaskSet, make_task_model
from gpt1.tasks.model import TaskModel, soft_labels
from gpt1.tasks.registry import TASKS, Task
from gpt1.train.trainer import ConsoleReporter
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
PROMPT = [30, 31, 32]
WORDS = {"classifier": "label_words", "words": [40, 2]}


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def model_for(
    task: Task, dropout: float = 0.0, kind: str = "gpt", words: Sequence[int] = (), **settings: Any
) -> TaskModel:
    gpt = samples.model(1, VOCABULARY, context=CONTEXT, dropout=0.0, kind=kind, units=40)
    config = FinetuneConfig(task=task.name, classifier_dropout=dropout, **settings)
    model = make_task_model(gpt, TaskSet(task, [], []), config, words).double()
    with torch.no_grad():  # larger than at the start, so that mistakes show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator("noise", 1)))
    return model


def encoded(
    task: Task, labels: Sequence[float], prompt: Sequence[int] = ()
) -> list[TokenizedExample]:
    choices = CHOICES if task.kind == "choice" else [()] * len(labels)
    spec = InputSpec(task.kind, SPECIAL, CONTEXT, prompt=prompt)
    return [
        TokenizedExample(sequences(spec, texts, answers), label)
        for texts, answers, label in zip(TEXTS, choices, labels, strict=True)
    ]


def loss_of(model: TaskModel, examples: list[TokenizedExample], task: Task) -> Tensor:
    ids, lengths, labels = make_batch(examples, task.regression)
    return model(ids, lengths, labels.double() if task.regression else labels)


def states(gpt: GPT, sequence: Sequence[int]) -> Tensor:
    """(T, C): the last block's outputs, of the sequence alone, unpadded."""
    return gpt(torch.tensor([list(sequence)]))[0]


def class_losses(logits: Tensor, labels: Sequence[float]) -> Tensor:
    """Mean negative log-probability of the right class, answer or token."""
    pairs = zip(logits, labels, strict=True)
    return torch.stack([-torch.log_softmax(row, 0)[int(label)] for row, label in pairs]).mean()


def straight_auxiliary(gpt: GPT, rows: list[list[list[int]]]) -> Tensor:
    """The mean over sequences of each one's mean cross-entropy over all ids but the first."""
    weight, sequences = gpt.tokens_embed.weight, [one for row in rows for one in row]
    losses = [class_losses(states(gpt, one)[:-1] @ weight.T, one[1:]) for one in sequences]
    return torch.stack(losses).mean()


def straight_loss(model: TaskModel, rows: list[list[list[int]]], labels: list[float]) -> Tensor:
    """Linear on the last state; softmax over answers; of both orders the last states added. With
    label words the logits of their tokens.
    """
    head = model.head

    def outputs(*sequences: list[int]) -> Tensor:
        last = torch.stack([states(model.gpt, one)[-1] for one in sequences]).sum(0)
        if head.words:
            return model.gpt.lm_logits(last)[head.words]
        return head.linear.weight @ last + head.linear.bias

    if head.kind == "choice":
        logits = torch.stack([torch.cat([outputs(answer) for answer in row]) for row in rows])
    else:
        logits = torch.stack([outputs(*row) for row in rows])
    if labels is not SCORES:
        return class_losses(logits, labels)
    if head.regression == "mse":
        return ((logits[:, 0] - torch.tensor(labels)) ** 2).mean()
    # the released code's soft labels: a score's share of the integer above it, the rest below
    soft = [[max(0.0, 1.0 - abs(score - number)) for number in range(6)] for score in labels]
    return -(torch.tensor(soft) * F.log_softmax(logits, 1)).sum(1).mean()


LOSSES: list[tuple[str, list[float], dict[str, Any]]] = [
    ("cola", [0, 1, 1, 0], {}), ("snli", [2, 0, 1, 2], {}), ("mrpc", [1, 0, 0, 1], {}),
    ("race", [3, 0, 2, 1], {}), ("stsb", SCORES, {}), ("rte", [0, 1, 1, 0], {"lm_weight": 0.0}),
    ("stsb", SCORES, {"lm_weight": 0.0, "regression": "mse"}),
    ("cola", [0, 1, 1, 0], {"kind": "lstm"}),
    ("rte", [0, 1, 1, 0], {"lm_weight": 0.0, "kind": "lstm"}),
    ("cola", [0, 1, 1, 0], {"loss": "interpolated", "lm_weight": 0.2}),
    ("race", [3, 0, 2, 1], {"loss": "interpolated", "lm_weight": 0.0}),
    ("cola", [0, 1, 1, 0], WORDS), ("mrpc", [1, 0, 0, 1], {**WORDS, "loss": "interpolated"}),
    ("snli", [2, 0, 1, 2], {**WORDS, "words": [5, 1, 59], "lm_weight": 0.0}),
    ("rte", [0, 1, 1, 0], {**WORDS, "kind": "lstm"}),
]


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("name", "labels", "settings"), LOSSES)
def test_task_and_auxiliary_loss(name: str, labels: list[float], settings: dict[str, Any]) -> None:
    """With their gradients; and a batch has the mean of its examples alone: padding and company
    change nothing.
    """
    task, prompt = TASKS[name], PROMPT if "words" in settings else []
    model, examples = model_for(task, **settings), encoded(task, labels, prompt)
    assert all(one.sequences[0][-3:] == prompt for one in examples if prompt)
    rows, parameters = [example.sequences for example in examples], list(model.parameters())
    weight = settings.get("lm_weight", 0.5)
    expected = straight_loss(model, rows, labels)
    if settings.get("loss") == "interpolated":
        expected = (1 - weight) * expected
    if weight:
        expected = expected + weight * straight_auxiliary(model.gpt, rows)
    found = loss_of(model, examples, task)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    gradients = (torch.autograd.grad(loss, parameters) for loss in (found, expected))
    for own, straight in zip(*gradients, strict=True):
        assert torch.allclose(own, straight, atol=1e-6)  # the losses are fp32
    with torch.no_grad():
        alone = [float(loss_of(model, [example], task)) for example in examples]
        turned = float(loss_of(model, examples[::-1], task))
    assert turned == pytest.approx(sum(alone) / 4, abs=1e-6)


@pytest.mark.usefixtures("in_float64")
def test_answers_of_a_question_share_their_dropout_mask() -> None:
    model = model_for(TASKS["race"], dropout=0.5).train()
    same = torch.randn(3, 1, 32).expand(3, 4, 32).reshape(12, 32)  # four equal answers to each
    outputs = model.head(same)
    assert outputs.shape == (3, 4)
    assert torch.allclose(outputs, outputs[:, :1].expand(3, 4))
    other = model.head(torch.randn(1, 32).expand(12, 32))[:, 0].tolist()
    assert len({round(value, 9) for value in other}) == 3  # another mask for each question


@pytest.mark.usefixtures("in_float64")
def test_soft_labels_and_their_expectation() -> None:
    scores = torch.tensor([0.0, 1.25, 4.9, 5.0])
    labels = soft_labels(scores)
    assert labels[1].tolist() == [0, 0.75, 0.25, 0, 0, 0]
    head = model_for(TASKS["stsb"]).head
    assert torch.allclose(head.predict((labels + 1e-30).log()).double(), scores, atol=1e-5)


CPU = torch.device("cpu")
CONFIG = FinetuneConfig(task="sst2", seed=3, lr=3e-3, epochs=4, batch_size=16, log_every=5)


def tiny() -> GPT:
    return GPT(ModelConfig(40, 24, 32, 2, 2, init_std=0.1), generator("weights", 1))


def examples(name: str, count: int, seed: int) -> list[TokenizedExample]:
    """The label is whether (choice: where) a certain id is there: any form of input shows it."""
    task, rng = TASKS[name], random.Random(seed)
    spec = InputSpec(task.kind, SpecialIds.after(40), 24)
    made = []
    for number in range(count):
        label, choice = number % 2, task.kind == "choice"
        marked, plain = ([rng.randrange(10, 40) for _ in range(rng.randrange(3, 7))] for _ in "ab")
        if label or choice:
            marked[rng.randrange(len(marked))] = 1
        choices = [[marked, plain], [plain, marked]][label] if choice else []
        texts = [marked] if task.kind in ("classification", "choice") else [plain, marked]
        made.append(TokenizedExample(sequences(spec, texts, choices), label))
    return made


def task_set(name: str) -> TaskSet:
    train, dev = examples(name, 240, 1), examples(name, 80, 2)
    return TaskSet(TASKS[name], train, dev, ("a", "b") * 40)


def tuned(
    name: str, words: Sequence[int] = (), **settings: Any
) -> tuple[Any, tuning.Result]:
    data, config = task_set(name), CONFIG.model_copy(update=settings)
    model = make_task_model(tiny(), data, config, words)
    return model, tuning.finetune(model, data, config, CPU, ConsoleReporter())


@pytest.mark.parametrize("name", ["sst2", "rte", "mrpc", "storycloze"])
def test_every_kind_learns(name: str) -> None:
    found = tuned(name, epochs=8)[1].score
    assert found is not None
    assert found.values["accuracy"] > 95
    assert {"accuracy/a", "accuracy/b"} <= found.values.keys()


def test_label_words_learn_without_a_linear_layer() -> None:
    model, found = tuned("mrpc", [3, 5], epochs=8)
    assert [name for name in found.weights if name.startswith("head")] == []
    assert found.score is not None
    assert found.score.values["accuracy"] > 95
    ids, lengths, _ = make_batch(task_set("mrpc").dev[:4], regression=False)
    with torch.no_grad():
        last = model.gpt(ids)[torch.arange(8), lengths - 1].view(4, 2, -1).sum(1)
        assert torch.allclose(
            model.outputs(ids, lengths), model.gpt.lm_logits(last)[:, [3, 5]], atol=1e-5
        )


def test_the_best_epoch_is_kept_with_the_same_bits_every_time() -> None:
    (model, first), (_, again) = tuned("rte"), tuned("rte")
    assert (first.curve, first.predictions) == (again.curve, again.predictions)
    assert all(torch.equal(first.weights[name], again.weights[name]) for name in first.weights)
    assert tuned("rte", seed=4, epochs=1)[1].curve != first.curve
    reached = [point["dev_accuracy"] for point in first.curve if "dev_accuracy" in point]
    assert len(reached) == CONFIG.epochs
    assert first.score is not None
    assert (first.score.main, first.best_epoch) == (max(reached), reached.index(max(reached)) + 1)
    data = task_set("rte")
    assert tuning.predict(model, data.dev, data.task, CONFIG) == first.predictions


def test_the_schedule_is_warm_up_and_a_line_to_zero() -> None:
    curve = tuned("rte", epochs=2, warmup_ratio=0.1, log_every=1)[1].curve
    rates = [point["lr"] for point in curve if "lr" in point]
    assert (len(rates), rates.index(max(rates))) == (15 * 2, round(0.1 * 30) - 1)
    assert max(rates) == pytest.approx(CONFIG.lr)
    falls = [before - after for before, after in pairwise(rates[3:])]
    assert max(falls) - min(falls) < 1e-9 < rates[-1] < CONFIG.lr / 20
    with pytest.raises(UserError, match="240 training examples do not fill one batch of 500"):
        tuned("rte", batch_size=500)
    with pytest.raises(UserError, match="warmup_steps: 60 must be less than the 60 steps"):
        tuned("rte", warmup_steps=60)


def test_batches_depend_on_the_step_alone() -> None:
    data = task_set("rte")
    model = make_task_model(tiny(), data, CONFIG)
    made = tuning.Finetuner(model, data, CONFIG, CPU, ConsoleReporter())
    late, *_, again = (made.read_micro_batches(step)[0].inputs for step in (22, *range(23)))
    assert all(map(torch.equal, late, again))


def test_a_training_that_diverged_is_refused() -> None:
    """And scores nothing: of NaN argmax makes a class, and no later score exceeds NaN."""
    data = task_set("rte")
    model = make_task_model(tiny(), data, CONFIG)
    torch.nn.init.constant_(model.head.linear.bias, torch.nan)
    message = r"rte, seed 3: the model's outputs are not finite: training diverged; lower lr \(now"
    with pytest.raises(UserError, match=message):
        tuning.finetune(model, data, CONFIG, CPU, ConsoleReporter())


def test_only_the_blocks_not_transferred_are_drawn_again() -> None:
    gpt, before = tiny(), tiny().state_dict()
    tuning.reset_blocks(gpt, 1, 9)
    changed = {name[:4] for name, now in gpt.state_dict().items() if not now.equal(before[name])}
    assert changed == {"h.1."}
