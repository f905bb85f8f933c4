"""What the stages of tasks share: which cells they take, loading inputs, writing rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError
from gpt1.tasks.registry import ZERO_SHOT_ONLY, task_named
from stages.contract import Artifact, Context, StoredFile

if TYPE_CHECKING:
    import torch

    from gpt1.tasks.io import Example, TaskFiles
    from gpt1.tokenizer.vocabulary import Vocabulary

Fetch = Callable[[StoredFile], Path]


def is_trainable(task: str) -> bool:
    """Whether fine-tuning has an objective for a task."""
    return task_named(task).kind not in ZERO_SHOT_ONLY


def check_task_data(settings: Any, upstream: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a task without data."""
    if not upstream.get("task_data"):
        raise UserError(
            f"no task_data job for task {settings.task!r}; add it to `tasks:`, or to that stage's"
            " matrix"
        )


def same_task(settings: Any, kind: str, upstream: Any) -> bool:
    """Of the task_data and encode cells, the one with the same task."""
    return kind not in ("task_data", "encode") or upstream.task == settings.task


def is_model(kind: str, upstream: Any, model: str) -> bool:
    """Of the pretrain cells, those that train that kind of model."""
    return kind != "pretrain" or getattr(upstream, "model", "gpt") == model


def has_seed(settings: Any, kind: str, upstream: Any) -> bool:
    """Of the pretrain cells, those with the seed that `pretrain_seed` chooses."""
    seed = settings.seed if settings.pretrain_seed == "same" else settings.pretrain_seed
    return kind != "pretrain" or seed in (None, getattr(upstream, "seed", seed))


def check_pretrain(settings: Any, upstream: Mapping[str, Sequence[Any]], model: str) -> None:
    """Refuse other than one pretrain job of that kind of model."""
    if (found := len(upstream.get("pretrain", ()))) != 1:
        seed = "any" if settings.pretrain_seed is None else settings.pretrain_seed
        raise UserError(
            f"{found or 'no'} pretrain jobs match `model: {model}` and pretrain_seed ({seed});"
            " expected one: change these settings, or that stage's `matrix:`"
        )


def load_vocabulary(context: Context) -> Vocabulary:
    """The vocabulary this one takes."""
    from gpt1.tokenizer.vocabulary import Vocabulary

    files = [
        context.fetch(file)
        for prefix in ("encoder_bpe_", "vocab_")
        for file in context.input("vocabulary").under(prefix)
    ]
    return Vocabulary.read(*files)


def vocabulary_size(context: Context) -> int:
    """The number of tokens of the vocabulary this one takes, from the file that lists them."""
    [encoder] = context.input("vocabulary").under("encoder_bpe_")
    return len(json.loads(context.fetch(encoder).read_bytes()))


def load_task_data(context: Context) -> TaskFiles:
    """The examples of the task_data cell this one takes."""
    return read_task_data(context.fetch, context.input("task_data"))


def read_task_data(fetch: Fetch, data: Artifact) -> TaskFiles:
    """The examples of a task_data artifact."""
    from gpt1.tasks.io import TASK_FILE, load_task

    train, dev, test = (
        fetch(data.file(name)) if name in data.files else None
        for name in ("train.jsonl", "dev.jsonl", "test.jsonl")
    )
    assert dev is not None
    return load_task(fetch(data.file(TASK_FILE)), train, dev, test)


def prepare(context: Context) -> torch.device:
    """Threads and device of this job: what `resources:` gave it."""
    import torch

    from gpt1.rng import use_threads

    device = torch.device("cuda" if context.resources.gpus else "cpu")
    use_threads(max(1, int(context.resources.cpus)), device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "`resources:` asks for a GPU, but torch finds none; set gpus to 0 or fix the driver"
        )
    return device


def prediction_rows(
    examples: Sequence[Example], predictions: Sequence[float] | Sequence[str]
) -> list[dict[str, Any]]:
    """One plain row an example."""
    return [
        {"id": example.id, "label": example.label, "prediction": found, "group": example.group}
        for example, found in zip(examples, predictions, strict=True)
    ]


def write_lines(context: Context, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """An output of one JSON object a line."""
    with context.open(name) as file:
        file.writelines(
            json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n" for row in rows
        )
