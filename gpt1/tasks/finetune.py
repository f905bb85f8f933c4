"""Fine-tuning of one task (paper, section 3.2): the shared loop and engine, an evaluation each
epoch, the best epoch kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.rng import generator
from gpt1.tasks.batches import epoch_batches
from gpt1.tasks.config import FinetuneConfig
from gpt1.tasks.dataset import Encoded, evaluation_batches, make_batch
from gpt1.tasks.heads import TaskHead
from gpt1.tasks.metrics import Score, score
from gpt1.tasks.registry import Task
from gpt1.tasks.task_model import TaskModel
from gpt1.tasks.transforms import SPECIAL_TOKENS
from gpt1.train.config import learning_rate
from gpt1.train.engine import MicroBatch, OptimizerConfig, StepOutput, TorchEngine
from gpt1.train.trainer import Reporter, Trainer


@dataclass(frozen=True)
class TaskSet:
    """A task's encoded examples. `groups` names each dev example's part."""

    task: Task
    train: Sequence[Encoded]
    dev: Sequence[Encoded]
    groups: Sequence[str] = ()


@dataclass
class Result:
    """The best epoch (1-based) by dev score, its score, predictions and weights, and the curve,
    one dictionary a point.
    """

    best_epoch: int = 0
    score: Score | None = None
    predictions: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)


def make_task_model(gpt: GPT, data: TaskSet, config: FinetuneConfig) -> TaskModel:
    """`gpt` with rows for the special tokens and a new head, both drawn from the seed."""
    if gpt.config.special_tokens == 0:
        gpt.extend(SPECIAL_TOKENS, generator("special tokens", config.seed))
    head_generator = generator("task head", config.seed)
    head = TaskHead(
        data.task, gpt.config.width, config.classifier_dropout, config.regression, head_generator
    )
    return TaskModel(gpt, head, config.lm_weight)


def reset_blocks(gpt: GPT, kept: int, seed: int) -> None:
    """Draw all blocks but the first `kept` anew: how many layers are transferred (paper, figure
    2 left; 0: embeddings only).
    """
    fresh = GPT(gpt.config, generator("blocks", seed))
    for block, random_block in list(zip(gpt.h, fresh.h, strict=True))[kept:]:
        block.load_state_dict(random_block.state_dict())


class _Batches:
    """The micro-batches of each update."""

    def __init__(self, data: TaskSet, config: FinetuneConfig) -> None:
        self.data, self.config = data, config
        self.lengths = [example.longest for example in data.train]
        self.per_epoch = len(data.train) // config.batch_size
        if self.per_epoch == 0:
            raise UserError(
                f"{data.task.name}: {len(data.train)} training examples do not fill one batch of"
                f" {config.batch_size}; use a smaller batch_size or more examples"
            )
        self._epoch, self._batches = -1, list[list[int]]()

    def __call__(self, step: int) -> list[MicroBatch]:
        config = self.config
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._batches = epoch_batches(
                self.lengths, config.batch_size, config.seed, epoch, config.group_by_length
            )
        chosen = [self.data.train[i] for i in self._batches[place]]
        piece = config.batch_size // config.gradient_accumulation_steps
        pieces = [chosen[start : start + piece] for start in range(0, config.batch_size, piece)]
        return [
            MicroBatch(index, make_batch(rows, self.data.task.regression))
            for index, rows in enumerate(pieces)
        ]


@torch.no_grad()
def predict(
    model: TaskModel, examples: Sequence[Encoded], task: Task, config: FinetuneConfig,
    device: torch.device,
) -> list[float]:
    """The prediction for each example, in their order, without dropout."""
    model.eval()
    predictions = [0.0] * len(examples)
    for places, (ids, lengths, _) in evaluation_batches(
        examples, config.batch_size, task.regression
    ):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            outputs = model.outputs(ids.to(device), lengths.to(device))
        for place, value in zip(places, model.head.predict(outputs).tolist(), strict=True):
            predictions[place] = value
    return predictions


def score_predictions(
    data: TaskSet, examples: Sequence[Encoded], found: Sequence[float], seed: int,
    groups: Sequence[str] = (),
) -> Score:
    """The score of predictions for `examples`."""
    return score(data.task, [example.label for example in examples], found, groups, seed)


class Finetuner(Trainer):
    """Fine-tunes a model, evaluates it after each epoch and keeps the best one."""

    def __init__(
        self, model: TaskModel, data: TaskSet, config: FinetuneConfig, device: torch.device,
        reporter: Reporter,
    ) -> None:
        self.model, self.data, self.config, self.reporter = model, data, config, reporter
        batches = _Batches(data, config)
        engine = TorchEngine(
            model, OptimizerConfig(weight_decay=config.weight_decay, clip=config.grad_clip),
            seed=config.seed, accumulation=config.gradient_accumulation_steps,
            precision=config.precision, device=device,
        )  # fmt: skip
        self.per_epoch = batches.per_epoch
        steps = self.per_epoch * config.epochs
        if config.warmup(steps) >= steps:
            raise UserError(
                f"warmup_steps: {config.warmup(steps)} must be less than the {steps} steps of"
                f" {data.task.name}; lower it, or raise epochs"
            )
        rate = partial(
            learning_rate, max_lr=config.lr, warmup=config.warmup(steps), steps=steps,
            schedule="linear",
        )  # fmt: skip
        super().__init__(engine, batches, rate, steps)
        self.result = Result()

    def after_step(self, output: StepOutput) -> None:
        """Log, and evaluate at the end of an epoch."""
        done = self.step
        if done % self.config.log_every == 0 or done == self.steps:
            self._point(done, self._training_figures(done, output))
            self.reporter.progress(done, self.steps, "steps")
        if done % self.per_epoch == 0:
            self._evaluate(done)

    def _training_figures(self, done: int, output: StepOutput) -> dict[str, float]:
        assert self.model.parts is not None
        task, lm = (float(part) for part in self.model.parts)
        return {
            "loss": float(output.losses.mean()), "task_loss": task, "lm_loss": lm,
            "lr": self.rate(done - 1),
        }

    def _evaluate(self, done: int) -> None:
        data, best = self.data, self.result.score
        found = predict(self.model, data.dev, data.task, self.config, self.engine.device)
        reached = score_predictions(data, data.dev, found, self.config.seed, data.groups)
        self._point(done, {f"dev_{name}": value for name, value in reached.values.items()})
        if best is None or reached.main > best.main:
            self.result.best_epoch = done // self.per_epoch
            self.result.score, self.result.predictions = reached, found
            self.result.weights = self.engine.weights()

    def _point(self, step: int, values: dict[str, float]) -> None:
        self.result.curve.append({"step": step, **values})
        self.reporter.log(step, values)


def finetune(
    model: TaskModel, data: TaskSet, config: FinetuneConfig, device: torch.device,
    reporter: Reporter,
) -> Result:
    """Train all parameters of `model`, evaluate on dev after each epoch, return the best epoch;
    `model` ends with its weights.
    """
    finetuner = Finetuner(model, data, config, device, reporter)
    finetuner.train()
    model.load_state_dict(finetuner.result.weights)
    return finetuner.result
