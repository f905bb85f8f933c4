"""What finetune and transfer share: settings, loading inputs and writing outputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from gpt1.errors import UserError
from gpt1.settings import CODE_OF_2018, DEBUG_FIELD, paper, runtime_field, set_together
from gpt1.tasks.table import ZERO_SHOT_ONLY, task_named
from gpt1.tasks.transforms import SHORTEST
from stages.contract import Artifact, Context, Settings

if TYPE_CHECKING:
    import torch

    from gpt1.tasks.example import Example
    from gpt1.tasks.files import TaskFiles
    from gpt1.tasks.finetune import FinetuneConfig, Result
    from gpt1.tasks.job import PiecesOf
    from gpt1.tasks.metrics import Score
    from gpt1.text.encoder import TextEncoder


class TuningSettings(Settings):
    """The defaults are the paper's (section 4.1)."""

    task: str = Field(description="Task to fine-tune on; needs a task_data job.")
    seed: int = Field(
        1, ge=0, le=2**31 - 1,
        description="Seed for the head, special tokens, dropout and example order.",
    )
    lr: float = Field(
        6.25e-5, gt=0, le=0.1, json_schema_extra=paper("4.1"),
        description="Peak learning rate; it decays linearly to 0.",
    )
    epochs: int = Field(
        3, ge=1, le=1000, json_schema_extra=paper("4.1"),
        description="Passes over the training examples; dev is scored after each.",
    )
    batch_size: int = Field(
        32, ge=1, le=4096, json_schema_extra=paper("4.1"),
        description="Examples per step; an incomplete last batch is dropped.",
    )
    gradient_accumulation_steps: int = Field(
        1, ge=1, le=4096,
        description="Split each batch into this many micro-batches to save memory."
    )
    warmup_steps: int | None = Field(
        None, ge=0, le=10_000_000,
        description="Linear warmup steps; default: set by `warmup_ratio`.",
    )
    warmup_ratio: float = Field(
        0.002, ge=0, lt=1, json_schema_extra=paper("4.1"),
        description="Warmup as a fraction of all steps.",
    )
    lm_weight: float = Field(
        0.5, ge=0, le=10, json_schema_extra=paper("4.1"),
        description="Weight of the auxiliary language-model loss.",
    )
    classifier_dropout: float = Field(
        0.1, ge=0, lt=1, json_schema_extra=paper("4.1"),
        description="Dropout before the task's linear layer.",
    )
    weight_decay: float = Field(
        0.01, ge=0, le=1, json_schema_extra=paper("4.1"),
        description="Decoupled weight decay for matrices and embeddings.",
    )
    grad_clip: float = Field(
        1.0, ge=0, le=1000, json_schema_extra=CODE_OF_2018,
        description="Maximum gradient norm (0 disables clipping).",
    )
    max_length: int | None = Field(
        None, ge=SHORTEST, le=8_192,
        description="Maximum sequence length in tokens; default: the model's context."
    )
    truncation: Literal["longest_first", "fixed"] = Field(
        "longest_first", json_schema_extra=CODE_OF_2018,
        description="Truncate the longest text first, or each text to a fixed length as in the 2018"
        " code.",
    )
    regression: Literal["soft", "mse"] = Field(
        "soft", json_schema_extra=CODE_OF_2018,
        description="STS-B: soft labels over six classes, or one output trained with MSE.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Compute precision; weights and optimizer state stay in fp32."
    )
    group_by_length: bool = Field(
        True, json_schema_extra=CODE_OF_2018,
        description="Batch examples of similar length (faster); `false`: as in the 2018 code.",
    )
    log_every: int = Field(
        10, ge=1, le=100_000, json_schema_extra=DEBUG_FIELD,
        description="Log metrics every N steps.",
    )
    reference_2018: bool = runtime_field(
        False, "Match the 2018 code: `truncation: fixed`, `group_by_length: false`.",
        mark=CODE_OF_2018,
    )

    @model_validator(mode="before")
    @classmethod
    def _as_in_2018(cls, values: Any) -> Any:
        return set_together(values, "reference_2018", truncation="fixed", group_by_length=False)

    @field_validator("task")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            task = task_named(name)
        except UserError as error:
            raise ValueError(str(error)) from error
        if task.kind in ZERO_SHOT_ONLY:
            raise ValueError(
                f"task {name!r} has no training objective; use it in a zero_shot stage"
            )
        return name

    @model_validator(mode="after")
    def _pieces(self) -> Self:
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible by gradient_accumulation_steps"
                f" {self.gradient_accumulation_steps}; choose a divisor of {self.batch_size}"
            )
        return self


def check_inputs(settings: TuningSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
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


def load_encoder(vocabulary: Artifact) -> TextEncoder:
    """The encoder of a vocabulary artifact."""
    from gpt1.text.encoder import TextEncoder
    from gpt1.text.vocabulary import Vocabulary

    [encoder], [merges] = vocabulary.under("encoder_bpe_"), vocabulary.under("vocab_")
    return TextEncoder(Vocabulary.read(encoder.path, merges.path))


def load_task_data(context: Context) -> TaskFiles:
    """The examples of the task_data cell this one takes."""
    return read_task_data(context.input("task_data"))


def read_task_data(data: Artifact) -> TaskFiles:
    """The examples of a task_data artifact."""
    from gpt1.tasks.files import TASK_FILE, load_task

    train, test = (
        data.path(name) if name in data.files else None for name in ("train.jsonl", "test.jsonl")
    )
    return load_task(data.path(TASK_FILE), train, data.path("dev.jsonl"), test)


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


def tuning_config(settings: TuningSettings) -> FinetuneConfig:
    """The library's configuration of a job; its fields are settings of the same names."""
    from gpt1.tasks.finetune import FinetuneConfig

    names = [field.name for field in fields(FinetuneConfig)]
    return FinetuneConfig(**{name: getattr(settings, name) for name in names})


def pieces_of(context: Context, encoder: TextEncoder) -> PiecesOf:
    """The splits' ids: those of the encode stage where the workflow has one, else encoded here."""
    from gpt1.tasks.pieces import encode_pieces, load_pieces

    kept = context.inputs("encode")
    if not kept:
        return lambda _, examples: encode_pieces(examples, encoder.encode)
    return lambda name, examples: load_pieces(kept[0].path(f"{name}.safetensors"), examples)


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
