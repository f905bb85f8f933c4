"""Fine-tuning of one task (paper, section 3.2): the shared loop and engine, an evaluation each
epoch, the best epoch kept; and one job of it, from files and ids to scores, for the stage and for
packed folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig, model_class
from gpt1.model.gpt import GPT
from gpt1.rng import generator
from gpt1.tasks.config import SHORTEST, FinetuneConfig, Variant
from gpt1.tasks.dataset import (
    SPECIAL_TOKENS,
    Decode,
    InputSpec,
    LabelWords,
    SpecialIds,
    TokenizedExample,
    TokenizedExamples,
    TokenizedTexts,
    epoch_batches,
    make_batch,
)
from gpt1.tasks.io import Example, TaskFiles
from gpt1.tasks.metrics import Score, score
from gpt1.tasks.model import TaskHead, TaskModel, evaluate_outputs, generate_targets
from gpt1.tasks.registry import Task
from gpt1.train.engine import MicroBatch, OptimizerConfig, StepOutput, TorchEngine
from gpt1.train.trainer import Reporter, Trainer, learning_rate
from gpt1.weights.store import load_model

Predictions = list[float] | list[str]
"""One for each example; the texts of a generation task."""


@dataclass(frozen=True)
class TaskSet:
    """A task's encoded examples. `groups` names each dev example's part, `sources` has its first
    text; generation needs these, and `decode`.
    """

    task: Task
    train: Sequence[TokenizedExample]
    dev: Sequence[TokenizedExample]
    groups: Sequence[str] = ()
    sources: Sequence[str] = ()
    decode: Decode | None = None


@dataclass
class Result:
    """The best epoch (1-based) by dev score, its score, predictions and weights, and the curve,
    one dictionary a point. `untrained`: the score before the first step, of generation alone.
    """

    best_epoch: int = 0
    score: Score | None = None
    untrained: Score | None = None
    predictions: Predictions = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)


def make_task_model(
    gpt: GPT, data: TaskSet, config: FinetuneConfig, words: Sequence[int] = ()
) -> TaskModel:
    """`gpt` with rows for the special tokens and a new head, both drawn from the seed; with the ids
    of label `words`, their rows are the head.
    """
    if gpt.config.special_tokens == 0:
        gpt.extend(SPECIAL_TOKENS, generator("special tokens", config.seed))
    head_generator = generator("task head", config.seed)
    head = TaskHead(
        data.task, gpt.config.width, config.classifier_dropout, config.regression, head_generator,
        words,
    )
    task_weight = 1 - config.lm_weight if config.loss == "interpolated" else 1.0
    return TaskModel(gpt, head, config.lm_weight, task_weight)


def reset_blocks(gpt: GPT, kept: int, seed: int) -> None:
    """Draw all blocks but the first `kept` anew: how many layers are transferred (paper, figure
    2 left; 0: embeddings only). UserError where the model has fewer.
    """
    layers = gpt.config.layers
    if kept > layers:
        raise UserError(
            f"num_layers_transferred is {kept}, but the pre-trained model has {layers} layers;"
            f" expected 0 to {layers}"
        )
    fresh = type(gpt)(gpt.config, generator("blocks", seed))
    for block, random_block in list(zip(gpt.h, fresh.h, strict=True))[kept:]:
        block.load_state_dict(random_block.state_dict())


def predict(
    model: TaskModel, examples: Sequence[TokenizedExample], task: Task, config: FinetuneConfig,
    decode: Decode | None = None,
) -> Predictions:
    """The prediction for each example, in their order, without dropout.

    UserError where an output is not finite: it decides nothing, and no later epoch repairs weights
    that are not.
    """

    def check(values: Tensor) -> None:
        if not values.isfinite().all():
            raise UserError(
                f"{task.name}, seed {config.seed}: the model's outputs are not finite: training"
                f" diverged; lower lr (now {config.lr:g}) or warm up longer"
            )

    if task.kind == "generation":
        assert decode is not None
        check(model.gpt.tokens_embed.weight)  # has a gradient from every output
        length = config.max_length or model.gpt.config.context
        return [decode(ids) for ids in generate_targets(model, examples, config.batch_size, length)]
    predictions = [0.0] * len(examples)
    for places, outputs in evaluate_outputs(
        model, examples, task, config.batch_size, config.precision
    ):
        check(outputs)
        for place, value in zip(places, model.head.predict(outputs).tolist(), strict=True):
            predictions[place] = value
    return predictions


class Finetuner(Trainer):
    """Fine-tunes a model, evaluates it after each epoch and keeps the best one."""

    def __init__(
        self, model: TaskModel, data: TaskSet, config: FinetuneConfig, device: torch.device,
        reporter: Reporter,
    ) -> None:
        self.model, self.data, self.config, self.reporter = model, data, config, reporter
        self.result = Result()
        self.per_epoch = len(data.train) // config.batch_size
        if self.per_epoch == 0:
            raise UserError(
                f"{data.task.name}: {len(data.train)} training examples do not fill one batch of"
                f" {config.batch_size}; use a smaller batch_size or more examples"
            )
        steps = self.per_epoch * config.epochs
        warmup = config.warmup(steps)
        if warmup >= steps:
            raise UserError(
                f"warmup_steps: {warmup} must be less than the {steps} steps of {data.task.name};"
                " lower it, or raise epochs"
            )
        lengths = [example.longest for example in data.train]
        self._batches = lru_cache(1)(
            lambda epoch: epoch_batches(
                lengths, config.batch_size, config.seed, epoch, config.group_by_length
            )
        )
        engine = TorchEngine(
            model, OptimizerConfig(weight_decay=config.weight_decay, clip=config.grad_clip),
            seed=config.seed, accumulation=config.gradient_accumulation_steps,
            precision=config.precision, device=device,
        )  # fmt: skip
        rate = partial(
            learning_rate, max_lr=config.lr, warmup=warmup, steps=steps, schedule="linear"
        )
        super().__init__(engine, self.read_micro_batches, rate, steps)

    def read_micro_batches(self, step: int) -> list[MicroBatch]:
        """The micro-batches of the 0-based `step`."""
        size = self.config.batch_size
        epoch, place = divmod(step, self.per_epoch)
        chosen = [self.data.train[i] for i in self._batches(epoch)[place]]
        piece = size // self.config.gradient_accumulation_steps
        return [
            MicroBatch(index, make_batch(chosen[start : start + piece], self.data.task.regression))
            for index, start in enumerate(range(0, size, piece))
        ]

    def after_step(self, output: StepOutput) -> None:
        """Log, and evaluate at the end of an epoch."""
        done = self.step
        if done % self.config.log_every == 0 or done == self.steps:
            assert self.model.parts is not None
            task, lm = (float(part) for part in self.model.parts)
            loss = {"loss": float(output.losses.mean()), "task_loss": task, "lm_loss": lm}
            self._point(done, {**loss, "lr": self.rate(done - 1)})
            self.reporter.progress(done, self.steps, "steps")
        if done % self.per_epoch == 0:
            self.evaluate(done)

    def evaluate(self, done: int) -> None:
        """Score on dev after `done` steps; before the first one, keep the score as `untrained`."""
        data, best = self.data, self.result.score
        found = predict(self.model, data.dev, data.task, self.config, data.decode)
        labels = [example.label for example in data.dev]
        reached = score(data.task, labels, found, data.groups, self.config.seed, data.sources)
        self._point(done, {f"dev_{name}": value for name, value in reached.values.items()})
        if done == 0:
            self.result.untrained = reached
        elif best is None or reached.main > best.main:
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
    """Train all parameters of `model`, evaluate on dev after each epoch (generation: before the
    first one, too), return the best epoch; `model` ends with its weights.
    """
    finetuner = Finetuner(model, data, config, device, reporter)
    if data.task.kind == "generation":
        finetuner.evaluate(0)
    finetuner.train()
    model.load_state_dict(finetuner.result.weights)
    return finetuner.result


# One job


TextsOf = Callable[[str, Sequence[Example]], TokenizedTexts]
"""Returns the ids of a split's texts, given the split's name and its examples."""


@dataclass(frozen=True)
class FinetuneJob:
    """All settings of a job. `id` is the workflow's cell, `vocabulary` the number of its tokens."""

    id: str
    config: FinetuneConfig
    variant: Variant
    vocabulary: int
    predict_test: bool = True
    shape: ModelConfig | None = None
    """The model of the variant no_pretraining."""
    num_layers_transferred: int | None = None
    """Pre-trained blocks to keep (figure 2, left); None: all of them."""
    label_words: LabelWords | None = None
    """Those of the task where they score its classes (`classifier: label_words`)."""

    @property
    def name(self) -> str:
        """`rte seed 1 no_pretraining`; the variant `full` goes without saying."""
        variant = "" if self.variant == "full" else f" {self.variant}"
        kept = self.num_layers_transferred
        layers = "" if kept is None else f", {kept} layers transferred"
        return f"{self.config.task} seed {self.config.seed}{variant}{layers}"

    @property
    def training(self) -> FinetuneConfig:
        """The configuration that the variant trains with."""
        lm_weight = 0.0 if self.variant == "no_auxiliary_lm" else self.config.lm_weight
        return self.config.model_copy(update={"lm_weight": lm_weight})

    @property
    def pretrained(self) -> bool:
        """Whether the job starts from a pre-trained model."""
        return self.variant != "no_pretraining"

    def model(self, weights: Path | None) -> GPT:
        """The model to start from: that of `weights` (a file or folder), or one drawn from the
        seed.
        """
        if not self.pretrained:
            assert self.shape is not None
            return model_class(self.shape.kind)(self.shape, generator("weights", self.config.seed))
        assert weights is not None
        gpt = load_pretrained(weights, self.vocabulary)
        if self.num_layers_transferred is not None:
            reset_blocks(gpt, self.num_layers_transferred, self.config.seed)
        return gpt

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        shape = None if self.shape is None else self.shape.to_dict()
        words = None if self.label_words is None else vars(self.label_words)
        config = self.config.model_dump(mode="json")
        return {**vars(self), "config": config, "shape": shape, "label_words": words}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneJob:
        """The inverse of `to_dict`. KeyError, TypeError, ValueError or UserError for others."""
        shape = ModelConfig.from_dict(values["shape"]) if values["shape"] else None
        words = LabelWords(**values["label_words"]) if values.get("label_words") else None
        config = FinetuneConfig(**values["config"])
        return cls(**{**values, "config": config, "shape": shape, "label_words": words})


@dataclass(frozen=True)
class JobResult:
    """The model with its best epoch's weights, the `result` on dev, how many examples of each split
    were cut, the predictions for the test set (none without such a set), their score where its
    labels are public, and, where layers were left out, the score on training examples (as many as
    dev has).
    """

    model: TaskModel
    result: Result
    cut: Mapping[str, int]
    test_predictions: Predictions = field(default_factory=list)
    test_score: Score | None = None
    train_score: Score | None = None


def load_pretrained(path: Path, vocabulary: int) -> GPT:
    """The model of a file or folder; UserError where it has other than `vocabulary` tokens."""
    gpt = load_model(path)
    if gpt.config.vocabulary != vocabulary:
        raise UserError(
            f"{path}: the model has {gpt.config.vocabulary} vocabulary rows, the vocabulary "
            f"{vocabulary} tokens; they must come from the same vocabulary stage"
        )
    return gpt


def run_job(
    job: FinetuneJob, files: TaskFiles, texts: TextsOf, gpt: GPT, device: torch.device,
    reporter: Reporter, decode: Decode | None = None,
) -> JobResult:
    """Fine-tune `gpt`, which it changes; score it on dev and, where there is one, the test set.
    Generation needs `decode`.

    UserError where `max_length` leaves no text or does not fit into the model's context.
    """
    config, task, context = job.training, files.task, gpt.config.context
    length, words = config.max_length or context, job.label_words or LabelWords([], [])
    least = SHORTEST + len(words.prompt)
    if not least <= length <= context:
        raise UserError(
            f"sequences of {length} tokens do not fit: expected {least} to the model's"
            f" context of {context}; set max_length"
        )
    special = SpecialIds.after(gpt.config.vocabulary)
    spec = InputSpec(task.kind, special, length, config.truncation, words.prompt)
    cut: dict[str, int] = {}

    def split(name: str, examples: Sequence[Example]) -> TokenizedExamples:
        found = TokenizedExamples(examples, texts(name, examples), spec)
        cut[name] = found.cut
        if found.cut:
            reporter.info(
                f"{found.cut} of {len(examples)} {name} examples were truncated to {length} tokens"
            )
        return found

    train, dev = split("train", files.train), split("dev", files.dev)
    groups, sources = [one.group for one in files.dev], [one.texts[0] for one in files.dev]
    data = TaskSet(task, train, dev, groups, sources, decode)
    model = make_task_model(gpt, data, config, words.words[: len(task.labels)])
    result = finetune(model, data, config, device, reporter)
    train_score = test_score = None
    if job.num_layers_transferred is not None:
        seen = train[: len(dev)]
        labels = [example.label for example in seen]
        sources = [example.texts[0] for example in files.train[: len(dev)]]
        found = predict(model, seen, task, config, decode)
        train_score = score(task, labels, found, (), config.seed, sources)
    found = []
    if job.predict_test and files.test:
        found = predict(model, split("test", files.test), task, config, decode)
        if files.test_labelled:
            labels = [example.truth for example in files.test]
            groups = [example.group for example in files.test]
            sources = [example.texts[0] for example in files.test]
            test_score = score(task, labels, found, groups, config.seed, sources)
    return JobResult(model, result, cut, found, test_score, train_score)
