"""A fine-tuned model as files, and its predictions for new examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.tasks.config import Regression
from gpt1.tasks.dataset import EncodedExamples, Form, evaluation_batches
from gpt1.tasks.example import Example
from gpt1.tasks.heads import TaskHead
from gpt1.tasks.pieces import encode_pieces
from gpt1.tasks.registry import Task, definition, recorded_task
from gpt1.tasks.task_model import TaskModel
from gpt1.tasks.transforms import SPECIAL_TOKENS, SpecialIds, Truncation
from gpt1.weights.store import as_fp32, read_json, write_json, write_tensors

HEAD_FILE = "head.safetensors"
HEAD_CONFIG = "head.json"
BATCH = 32
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Prediction:
    """`value` is the index of the class or answer, or the score of a regression; `name` that class,
    answer or number as text.

    `probabilities` are over the classes or answers (with soft labels: over the scores 0 to 5);
    empty for `mse`.
    """

    value: float
    name: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class FineTuned:
    """A task model with what its inputs need: the task (with the labels of its data), the
    longest sequence, how to cut.
    """

    model: TaskModel
    task: Task
    max_length: int
    truncation: Truncation

    def facts(self) -> dict[str, Any]:
        """What head.json says."""
        return head_facts(
            self.task, self.model.head.regression or "soft", self.max_length, self.truncation
        )

    @torch.no_grad()
    def predict(self, examples: Sequence[Example], encode: Encode) -> list[Prediction]:
        """One prediction an example, in their order, without dropout.

        UserError where an example is of another kind of task.
        """
        for number, example in enumerate(examples, start=1):
            self._check(example, number)
        model, special = self.model.eval(), SpecialIds.after(self.model.gpt.config.vocabulary)
        form = Form(self.task.kind, special, self.max_length, self.truncation)
        encoded = EncodedExamples(examples, encode_pieces(examples, encode), form)
        found: dict[int, Prediction] = {}
        device = model.gpt.tokens_embed.weight.device
        for places, (ids, lengths, _) in evaluation_batches(encoded, BATCH, self.task.regression):
            outputs = model.outputs(ids.to(device), lengths.to(device)).float()  # (B, K)
            probabilities = (
                outputs.softmax(-1).tolist() if outputs.shape[-1] > 1 else [[]] * len(places)
            )
            for place, value, shares in zip(
                places, model.head.predict(outputs).tolist(), probabilities, strict=True
            ):
                found[place] = Prediction(value, self._name(value, examples[place]), tuple(shares))
        return [found[place] for place in range(len(examples))]

    def _name(self, value: float, example: Example) -> str:
        if self.task.regression:
            return f"{value:.3f}"
        return (
            example.choices[int(value)]
            if self.task.kind == "choice"
            else self.task.labels[int(value)]
        )

    def _check(self, example: Example, number: int) -> None:
        texts = {"classification": (1,), "entailment": (2,), "similarity": (2,), "choice": (1, 2)}[
            self.task.kind
        ]
        if len(example.texts) not in texts:
            wanted = " or ".join(map(str, texts))
            raise UserError(
                f"{self.task.name}, example {number}: {len(example.texts)} texts, expected {wanted}"
            )
        if len(example.choices) != self.task.choices:
            raise UserError(
                f"{self.task.name}, example {number}: {len(example.choices)} answers, expected"
                f" {self.task.choices}"
            )


def head_facts(
    task: Task, regression: Regression, max_length: int, truncation: Truncation
) -> dict[str, Any]:
    """What head.json says beside the head's weights, so that a folder predicts without the
    workflow that made it.
    """
    return {
        "task": task.name, "labels": list(task.labels), "regression": regression,
        "max_length": max_length, "truncation": truncation, **definition(task),
    }  # fmt: skip


def save_head(folder: Path, tuned: FineTuned) -> list[Path]:
    """Write head.safetensors and head.json into `folder`."""
    head = tuned.model.head.state_dict()
    write_tensors(folder / HEAD_FILE, {name: as_fp32(tensor) for name, tensor in head.items()})
    write_json(folder / HEAD_CONFIG, tuned.facts())
    return [folder / HEAD_CONFIG, folder / HEAD_FILE]


def load_finetuned(gpt: GPT, folder: Path) -> FineTuned:
    """`gpt` with the head whose two files lie in `folder`.

    UserError names a file that is missing, damaged or does not fit.
    """
    config = folder / HEAD_CONFIG
    facts = read_json(config, "a model kept by finetune with `keep_model: true`")
    try:
        task = recorded_task(facts)
        regression, truncation, max_length = (
            facts["regression"], facts["truncation"], facts["max_length"],
        )
        known = (
            regression in get_args(Regression)
            and truncation in get_args(Truncation)
            and 0 < max_length <= gpt.config.context
        )
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{config}: not a file written by finetune ({error!r}); save the model again"
        ) from error
    if not known or gpt.config.special_tokens != SPECIAL_TOKENS:
        raise UserError(
            f"{config}: does not fit the model next to it ({facts}); the files must come from the"
            " same fine-tuning job"
        )
    head = TaskHead(task, gpt.config.width, 0.0, regression, torch.Generator())
    try:
        head.load_state_dict(load_file(folder / HEAD_FILE))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(
            f"{folder / HEAD_FILE}: not the head of {task.name}"
            f" ({str(error).splitlines()[-1].strip()})"
        ) from error
    return FineTuned(TaskModel(gpt, head, 0.0).eval(), task, max_length, truncation)
