"""One fine-tuning job, from files and ids to scores: for the stage and packed folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.rng import generator
from gpt1.tasks.config import FinetuneConfig, Variant
from gpt1.tasks.dataset import EncodedExamples, Form
from gpt1.tasks.example import Example
from gpt1.tasks.finetune import Result, TaskSet, finetune, make_task_model, predict
from gpt1.tasks.io import TaskFiles
from gpt1.tasks.metrics import Score, score
from gpt1.tasks.pieces import Pieces
from gpt1.tasks.task_model import TaskModel
from gpt1.tasks.transforms import SHORTEST, SpecialIds, Truncation
from gpt1.train.trainer import Reporter
from gpt1.weights.store import load_model

PiecesOf = Callable[[str, Sequence[Example]], Pieces]
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

    @property
    def name(self) -> str:
        """`rte seed 1 no_pretraining`; the variant `full` goes without saying."""
        variant = "" if self.variant == "full" else f" {self.variant}"
        return f"{self.config.task} seed {self.config.seed}{variant}"

    @property
    def training(self) -> FinetuneConfig:
        """The configuration that the variant trains with."""
        lm_weight = 0.0 if self.variant == "no_auxiliary_lm" else self.config.lm_weight
        return self.config.model_copy(update={"lm_weight": lm_weight})

    @property
    def pretrained(self) -> bool:
        """Whether the job starts from a pre-trained model."""
        return self.variant != "no_pretraining"

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary, for JSON."""
        shape = None if self.shape is None else self.shape.to_dict()
        return {**vars(self), "config": self.config.model_dump(mode="json"), "shape": shape}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneJob:
        """The inverse of `to_dict`. KeyError, TypeError, ValueError or UserError for others."""
        shape = ModelConfig.from_dict(values["shape"]) if values["shape"] else None
        return cls(**{**values, "config": FinetuneConfig(**values["config"]), "shape": shape})


@dataclass(frozen=True)
class JobResult:
    """The model with its best epoch's weights, the `result` on dev, how many examples of each split
    were cut, the predictions for the test set (none without such a set), and their score where its
    labels are public."""

    model: TaskModel
    result: Result
    cut: Mapping[str, int]
    test_predictions: Sequence[float] = ()
    test_score: Score | None = None


class TaskInputs:
    """A task's splits through the input transform of one model; reports how many examples it cuts.

    Raises UserError where `max_length` (None: the model's context) leaves no text or does not fit.
    """

    def __init__(
        self, files: TaskFiles, pieces: PiecesOf, gpt: GPT, reporter: Reporter, *,
        max_length: int | None, truncation: Truncation,
    ) -> None:
        context = gpt.config.context
        length = max_length or context
        if not SHORTEST <= length <= context:
            raise UserError(
                f"sequences of {length} tokens do not fit: expected {SHORTEST} to the model's"
                f" context of {context}; set max_length"
            )
        self._files, self._pieces, self._reporter = files, pieces, reporter
        special = SpecialIds.after(gpt.config.vocabulary)
        self._form = Form(files.task.kind, special, length, truncation)
        self.cut: dict[str, int] = {}

    def training(self) -> TaskSet:
        """Train and dev."""
        files = self._files
        groups = tuple(example.group for example in files.dev)
        train, dev = self.split("train", files.train), self.split("dev", files.dev)
        return TaskSet(files.task, train, dev, groups)

    def split(self, name: str, examples: Sequence[Example]) -> EncodedExamples:
        """One split."""
        found = EncodedExamples(examples, self._pieces(name, examples), self._form)
        self.cut[name] = found.cut
        if found.cut:
            cut = f"{found.cut} of {len(examples)} {name} examples were truncated"
            self._reporter.info(f"{cut} to {self._form.length} tokens")
        return found


def load_pretrained(path: Path, vocabulary: int) -> GPT:
    """The model of a file or folder; UserError where it has other than `vocabulary` tokens."""
    gpt = load_model(path)
    if gpt.config.vocabulary != vocabulary:
        raise UserError(
            f"{path}: the model has {gpt.config.vocabulary} vocabulary rows, the vocabulary "
            f"{vocabulary} tokens; they must come from the same vocabulary stage"
        )
    return gpt


def random_model(job: FinetuneJob) -> GPT:
    """The model of the variant no_pretraining, its weights drawn from the job's seed."""
    assert job.shape is not None
    return GPT(job.shape, generator("weights", job.config.seed))


def run_job(
    job: FinetuneJob, files: TaskFiles, pieces: PiecesOf, gpt: GPT, device: torch.device,
    reporter: Reporter,
) -> JobResult:
    """Fine-tune `gpt`, which it changes; score it on dev and, where there is one, the test set."""
    config = job.training
    inputs = TaskInputs(
        files, pieces, gpt, reporter, max_length=config.max_length, truncation=config.truncation
    )
    data = inputs.training()
    model = make_task_model(gpt, data, config)
    result = finetune(model, data, config, device, reporter)
    if not (job.predict_test and files.test):
        return JobResult(model, result, inputs.cut)
    found = predict(model, inputs.split("test", files.test), files.task, config, device)
    return JobResult(model, result, inputs.cut, found, _test_score(files, found, config.seed))


def _test_score(files: TaskFiles, found: Sequence[float], seed: int) -> Score | None:
    if not files.test_labelled:
        return None
    labels = [example.label or 0 for example in files.test]
    return score(files.task, labels, found, [example.group for example in files.test], seed)
