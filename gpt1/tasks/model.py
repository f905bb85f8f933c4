"""A GPT with a task head (paper, section 3.2), and the same as files that predict by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gpt1.errors import UserError
from gpt1.generation import Sampling, generate
from gpt1.model.gpt import GPT, Padding, per_sequence_loss, token_losses
from gpt1.tasks.config import Regression, Truncation
from gpt1.tasks.dataset import (
    SPECIAL_TOKENS,
    Decode,
    Encode,
    Ids,
    InputSpec,
    SpecialIds,
    TokenizedExample,
    TokenizedExamples,
    TokenizedTexts,
    make_batch,
)
from gpt1.tasks.io import Example
from gpt1.tasks.registry import Kind, Task, definition, recorded_task
from gpt1.train.config import Precision
from gpt1.weights.store import as_fp32, read_json, write_json, write_tensors

SCORES = 6
"""Classes of the soft label of a score from 0 to 5 (STS-B)."""
HEAD_STD = 0.02
"""The linear layer is drawn from N(0, 0.02), as the model of the paper is (section 4.1)."""
HEAD_FILE, HEAD_CONFIG = "head.safetensors", "head.json"
BATCH = 32
"""Examples that `FineTuned.predict` computes together."""


class TaskHead(nn.Module):
    """One linear layer on the last block's output at the extract token; none for generation, which
    uses the softmax of the language model.

    Extract vectors (N, C) of B examples -> outputs (B, K): logits of classes or answers, or
    one number (`mse`). With the ids of K label `words`, the language model's token rows of these
    are the layer, without bias.
    """

    def __init__(
        self, task: Task, width: int, dropout: float, regression: Regression,
        generator: torch.Generator, words: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.kind: Kind = task.kind
        self.regression: Regression | None = regression if task.regression else None
        self.choices = task.choices
        self.dropout = nn.Dropout(dropout)
        self.words = list(words)
        if words or task.kind == "generation":
            return
        self.linear = nn.Linear(width, _outputs(task, self.regression))
        with torch.no_grad():
            self.linear.weight.normal_(0.0, HEAD_STD, generator=generator)
            self.linear.bias.zero_()

    def forward(self, extract: Tensor, tokens: Tensor | None = None) -> Tensor:
        """(N, C) -> (B, K); `tokens`: all token rows (V, C), for label words.

        Both orders of a pair are added; the answers of a question share their dropout mask.
        """
        C = extract.shape[-1]
        if self.kind == "choice":
            answers = extract.view(-1, self.choices, C)  # (B, K, C)
            # (B, 1, C): one mask for all answers of a question
            mask = self.dropout(torch.ones_like(answers[:, :1]))
            return self.linear(answers * mask).squeeze(-1)  # (B, K)
        if self.kind == "similarity":
            extract = extract.view(-1, 2, C).sum(1)  # (B, C)
        extract = self.dropout(extract)
        if tokens is None or not self.words:
            return self.linear(extract)
        return F.linear(extract, tokens[self.words])

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(B, K) outputs and (B,) labels -> the scalar mean over examples."""
        outputs = outputs.float()
        if self.regression == "mse":
            return F.mse_loss(outputs.squeeze(-1), labels)
        return F.cross_entropy(
            outputs, soft_labels(labels) if self.regression == "soft" else labels
        )

    def predict(self, outputs: Tensor) -> Tensor:
        """(B, K) -> (B,): the class or answer, or the score (with soft labels: the expectation
        over 0 to 5).
        """
        outputs = outputs.float()
        if self.regression == "mse":
            return outputs.squeeze(-1)
        if self.regression == "soft":
            scores = torch.arange(SCORES, dtype=outputs.dtype, device=outputs.device)
            return outputs.softmax(-1) @ scores
        return outputs.argmax(-1)


def _outputs(task: Task, regression: Regression | None) -> int:
    if task.kind == "choice" or regression == "mse":
        return 1
    return SCORES if regression == "soft" else len(task.labels)


def soft_labels(scores: Tensor) -> Tensor:
    """(B,) scores 0 to 5 -> (B, 6): each split linearly over the whole numbers below and above
    (docs/explanation/tasks.md).
    """
    below = scores.floor().clamp(max=SCORES - 2)
    share = scores - below
    classes = torch.zeros(len(scores), SCORES, dtype=scores.dtype, device=scores.device)
    rows = torch.arange(len(scores), device=scores.device)
    classes[rows, below.long()] = 1 - share
    classes[rows, below.long() + 1] = share
    return classes


class TaskModel(nn.Module):
    """`forward` gives an engine the one scalar it trains on, task + lambda x language model
    (equation 5; `task_weight` x task + ...); `outputs` is for evaluation.

    Generation: the task's loss is that of the target's ids and the extract token which ends them,
    the language model's that of the ids before them.
    """

    def __init__(
        self, gpt: GPT, head: TaskHead, lm_weight: float, task_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.gpt = gpt
        self.head = head
        self.lm_weight, self.task_weight = lm_weight, task_weight
        self.parts: tuple[Tensor, Tensor] | None = None
        """Task and language-model loss of the last forward, for the curves."""

    def forward(self, ids: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """ids (N, T), lengths (N,), labels (B,) -> the scalar loss of the batch."""
        if self.lm_weight == 0 and self.head.kind != "generation":
            task = self.head.loss(self.outputs(ids, lengths), labels)
            self.parts = (task.detach(), torch.zeros_like(task))
            return task
        padding = Padding.after(lengths, ids.shape[1])
        hidden = self.gpt(ids, padding)  # (R, C)
        if self.head.kind == "generation":
            losses, mask = self._token_losses(hidden, ids, padding)
            delimiter = ids == SpecialIds.after(self.gpt.config.vocabulary).delimiter
            target = mask & (delimiter.cumsum(1)[:, :-1] > 0)  # (N, T-1)
            task = per_sequence_loss(losses, target).mean()
            lm = per_sequence_loss(losses, mask & ~target).mean()
        else:
            outputs = self.head(hidden[padding.last], self.gpt.tokens_embed.weight)
            task = self.head.loss(outputs, labels)
            lm = per_sequence_loss(*self._token_losses(hidden, ids, padding)).mean()
        self.parts = (task.detach(), lm.detach())
        return self.task_weight * task + self.lm_weight * lm

    def outputs(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (N, T), lengths (N,) -> the head's outputs (B, K), from the state at each sequence's
        last id, its extract token.
        """
        last = self.gpt(ids, Padding.after(lengths, ids.shape[1]), last=True)
        return self.head(last, self.gpt.tokens_embed.weight)

    def _token_losses(self, hidden: Tensor, ids: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
        """(R, C) -> losses and mask (N, T-1) of each sequence's targets: all but its first id,
        delimiter and extract token included.
        """
        mask = padding.real[:, 1:]  # (N, T-1): target t is not padding
        predicts = torch.ones(len(hidden), dtype=torch.bool, device=ids.device)
        predicts[padding.last] = False
        found = token_losses(self.gpt.lm_logits(hidden[predicts]), ids[:, 1:][mask])
        return found.new_zeros(mask.shape).masked_scatter(mask, found), mask


def evaluate_outputs(
    model: TaskModel, examples: Sequence[TokenizedExample], task: Task, size: int,
    precision: Precision = "fp32",
) -> Iterator[tuple[list[int], Tensor]]:
    """The head's outputs (B, K) without dropout, in batches of like length of at most `size`
    examples, with the places of their examples.
    """
    model.eval()
    device = model.gpt.tokens_embed.weight.device
    for places in _by_length(examples, size):
        ids, lengths, _ = make_batch([examples[place] for place in places], task.regression)
        bf16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        with torch.no_grad(), bf16:
            outputs = model.outputs(ids.to(device), lengths.to(device))
        yield places, outputs


def generate_targets(
    model: TaskModel, examples: Sequence[TokenizedExample], size: int, length: int
) -> list[Ids]:
    """What the model writes after each example's source, greedily: at most half of `length` ids,
    without the extract token that ends them. In batches as in `evaluate_outputs`, in fp32.
    """
    special = SpecialIds.after(model.gpt.config.vocabulary)
    found: list[Ids] = [[]] * len(examples)
    for places in _by_length(examples, size):
        rows = [examples[place].sequences[0] for place in places]
        prompts = [row[: row.index(special.delimiter) + 1] for row in rows]
        draws = [torch.Generator()] * len(prompts)  # greedy: nothing is drawn
        texts = generate(model.gpt, prompts, length // 2, Sampling(0), draws, end=special.extract)
        for place, text in zip(places, texts, strict=True):
            found[place] = text[:-1] if text[-1] == special.extract else text
    return found


def _by_length(examples: Sequence[TokenizedExample], size: int) -> Iterator[list[int]]:
    """The places of at most `size` examples of like length, shortest first."""
    longest = [example.longest for example in examples]
    places = sorted(range(len(examples)), key=lambda place: (longest[place], place))
    return (places[start : start + size] for start in range(0, len(places), size))


@dataclass(frozen=True)
class Prediction:
    """`value` is the index of the class or answer, or the score of a regression; `name` that class,
    answer or number as text, or the generated text, whose `value` is 0.

    `probabilities` are over the classes or answers (with soft labels: over the scores 0 to 5);
    empty for `mse` and texts.
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
        """What head.json says beside the head's weights, so that a folder predicts without the
        workflow that made it.
        """
        return {
            "task": self.task.name, "labels": list(self.task.labels),
            "regression": self.model.head.regression or "soft", "max_length": self.max_length,
            "truncation": self.truncation, **definition(self.task),
        }  # fmt: skip

    def predict(
        self, examples: Sequence[Example], encode: Encode, decode: Decode | None = None
    ) -> list[Prediction]:
        """One prediction an example, in their order, without dropout. Generation needs `decode`.

        UserError where an example is of another kind of task.
        """
        for number, example in enumerate(examples, start=1):
            self._check(example, number)
        special = SpecialIds.after(self.model.gpt.config.vocabulary)
        spec = InputSpec(self.task.kind, special, self.max_length, self.truncation)
        inputs = TokenizedExamples(examples, TokenizedTexts.of(examples, encode), spec)
        if self.task.kind == "generation":
            assert decode is not None
            targets = generate_targets(self.model, inputs, BATCH, self.max_length)
            return [Prediction(0, decode(ids), ()) for ids in targets]
        found: dict[int, Prediction] = {}
        for places, outputs in evaluate_outputs(self.model, inputs, self.task, BATCH):
            values = self.model.head.predict(outputs).tolist()
            shares = outputs.float().softmax(-1).tolist() if outputs.shape[-1] > 1 else None
            for row, (place, value) in enumerate(zip(places, values, strict=True)):
                name = self._name(value, examples[place])
                found[place] = Prediction(value, name, tuple(shares[row]) if shares else ())
        return [found[place] for place in range(len(examples))]

    def _name(self, value: float, example: Example) -> str:
        if self.task.regression:
            return f"{value:.3f}"
        names = example.choices if self.task.kind == "choice" else self.task.labels
        return names[int(value)]

    def _check(self, example: Example, number: int) -> None:
        counts = {"classification": (1,), "generation": (1,), "choice": (1, 2)}
        texts = counts.get(self.task.kind, (2,))
        wanted = " or ".join(map(str, texts))
        for count, good, named in (
            (len(example.texts), texts, f"texts, expected {wanted}"),
            (len(example.choices), (self.task.choices,), f"answers, expected {self.task.choices}"),
        ):
            if count not in good:
                raise UserError(f"{self.task.name}, example {number}: {count} {named}")


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
            facts[name] for name in ("regression", "truncation", "max_length")
        )
        known = (
            regression in get_args(Regression)
            and truncation in get_args(Truncation)
            and type(max_length) is int
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
