"""What finetune and transfer share: checks, loading inputs and writing outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError
from gpt1.tasks.config import FinetuneConfig
from gpt1.tasks.transforms import SHORTEST
from stages.contract import Artifact, Context, StoredFile

if TYPE_CHECKING:
    import torch

    from gpt1.tasks.example import Example
    from gpt1.tasks.finetune import Result
    from gpt1.tasks.io import TaskFiles
    from gpt1.tasks.job import PiecesOf
    from gpt1.tasks.metrics import Score
    from gpt1.tokenizer.tokenizer import Tokenizer

Fetch = Callable[[StoredFile], Path]


def check_inputs(settings: FinetuneConfig, upstream: Mapping[str, Sequence[Any]]) -> None:
    """Refuse a task without data or with more than one, several models, and sequences longer
    than the model's context.
    """
    if not upstream.get("task_data"):
        raise UserError(
            f"no task_data job for task {settings.task!r}; add it to that stage's `matrix: task`"
        )
    for kind in ("task_data", "pretrain"):
        if len(upstream.get(kind, ())) > 1:
            raise UserError(
                f"{len(upstream[kind])} {kind} jobs match task {settings.task!r}; expected one:"
                " narrow that stage's `matrix:`"
            )
    for model in upstream.get("pretrain", ()):
        context = getattr(model, "context", None)
        if context is not None and context < SHORTEST:
            raise UserError(
                f"the model's context is {context}; tasks need at least {SHORTEST}: use a model"
                " with a longer context"
            )
        if (
            settings.max_length is not None
            and context is not None
            and settings.max_length > context
        ):
            raise UserError(
                f"max_length {settings.max_length} is longer than the model's context of {context};"
                " lower it"
            )


def same_task(settings: Any, kind: str, upstream: Any) -> bool:
    """Of the task_data and encode cells, the one with the same task."""
    return kind not in ("task_data", "encode") or upstream.task == settings.task


def is_model(kind: str, upstream: Any, model: str) -> bool:
    """Of the pretrain cells, the one that trains that kind of model."""
    return kind != "pretrain" or getattr(upstream, "model", "gpt") == model


def load_encoder(context: Context) -> Tokenizer:
    """The encoder of the vocabulary this one takes."""
    from gpt1.tokenizer.tokenizer import Tokenizer
    from gpt1.tokenizer.vocabulary import Vocabulary

    files = [
        context.fetch(file)
        for prefix in ("encoder_bpe_", "vocab_")
        for file in context.input("vocabulary").under(prefix)
    ]
    return Tokenizer(Vocabulary.read(*files))


def load_task_data(context: Context) -> TaskFiles:
    """The examples of the task_data cell this one takes."""
    return read_task_data(context.fetch, context.input("task_data"))


def read_task_data(fetch: Fetch, data: Artifact) -> TaskFiles:
    """The examples of a task_data artifact."""
    from gpt1.tasks.io import TASK_FILE, load_task

    train, test = (
        fetch(data.file(name)) if name in data.files else None
        for name in ("train.jsonl", "test.jsonl")
    )
    dev = fetch(data.file("dev.jsonl"))
    return load_task(fetch(data.file(TASK_FILE)), train, dev, test)


def prepare(context: Context) -> torch.device:
    """Threads and device of this job: what `resources:` gave it."""
    import torch

    torch.set_num_threads(max(1, int(context.resources.cpus)))
    if context.resources.gpus > 0:
        if not torch.cuda.is_available():
            raise UserError(
                "`resources:` asks for a GPU, but torch finds none; set gpus to 0 or fix the driver"
            )
        return torch.device("cuda")
    return torch.device("cpu")


def pieces_of(context: Context, encoder: Tokenizer) -> PiecesOf:
    """The splits' ids: those of the encode stage where the workflow has one, else encoded here."""
    from gpt1.tasks.pieces import encode_pieces, load_pieces

    kept = context.inputs("encode")
    if not kept:
        return lambda _, examples: encode_pieces(examples, encoder.encode)
    return lambda name, examples: load_pieces(
        context.fetch(kept[0].file(f"{name}.safetensors")), examples
    )


def write_outcome(
    context: Context, files: TaskFiles, result: Result, about: Mapping[str, Any],
    tested: Score | None = None,
) -> Score:
    """scores.json, metrics.jsonl and predictions.jsonl, and the summary; returns the dev score.

    `tested`: that of the test set.
    """
    assert result.score is not None
    scores = {
        "task": files.task.name, "title": files.task.title, "kind": files.task.kind,
        **result.score.to_dict(), "best_epoch": result.best_epoch, "split": "dev",
        "scored_on": files.facts["scored_on"], "sample": files.facts["sample"],
        "train_rows": len(files.train), "rows": files.facts["rows"],
        "official_rows": dict(files.task.rows), "test": tested.to_dict() if tested else None,
        "paper": dict(files.task.paper), **about,
    }  # fmt: skip
    write_json(context, "scores.json", scores)
    write_lines(context, "metrics.jsonl", result.curve)
    write_lines(context, "predictions.jsonl", prediction_rows(files.dev, result.predictions))
    figures = (
        "metric", "baseline", "baseline_kind", "standard_error", "standard_errors_above_baseline",
        "n",
    )
    shown = {f"test_{name}": value for name, value in tested.values.items()} if tested else {}
    kept = {key: scores[key] for key in (*figures, "sample", "train_rows", "best_epoch")}
    context.summary({**result.score.values, **shown, **kept, **about})
    return result.score


def prediction_rows(
    examples: Sequence[Example], predictions: Sequence[float]
) -> list[dict[str, Any]]:
    """One plain row an example."""
    return [
        {"id": example.id, "label": example.label, "prediction": found, "group": example.group}
        for example, found in zip(examples, predictions, strict=True)
    ]


def write_json(context: Context, name: str, value: Mapping[str, Any]) -> None:
    """An output of one JSON object."""
    with context.open(name) as file:
        file.write(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def write_lines(context: Context, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """An output of one JSON object a line."""
    with context.open(name) as file:
        file.writelines(
            json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n" for row in rows
        )
