"""finetune: train and score one task, seed and variant, with or without pre-training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig, ModelKind
from gpt1.settings import paper, runtime_field
from gpt1.tasks.config import SHORTEST, FinetuneConfig, PretrainSeed, Variant
from gpt1.tasks.registry import task_named
from stages._checkpoint_files import variant_files
from stages._finetuning import (
    check_pretrain,
    check_task_data,
    has_seed,
    is_model,
    is_trainable,
    load_task_data,
    load_vocabulary,
    prediction_rows,
    prepare,
    same_task,
    vocabulary_size,
    write_lines,
)
from stages.contract import Context, ExternalFile, PackableFinetuning, Stage

if TYPE_CHECKING:
    from gpt1.tasks.finetune import FinetuneJob, JobResult, Predictions, TextsOf
    from gpt1.tasks.io import TaskFiles
    from gpt1.tokenizer.vocabulary import Vocabulary

SHAPE = ("layers", "width", "heads", "context")
VARIANTS: tuple[Variant, ...] = get_args(Variant)


class FinetuneSettings(FinetuneConfig):
    variant: Variant = Field("full", json_schema_extra=paper("table 5"))
    """Row of the paper's table 5: full, no auxiliary language-model loss, no pre-training, or the
    LSTM (needs a pretrain job with `model: lstm`).
    """
    model: ModelKind = runtime_field("gpt")
    """Kind of the model, as in the settings of the pretrain job to start from; for
    `no_pretraining`: `gpt` or a variant.
    """
    pretrain_seed: PretrainSeed = runtime_field(None)
    """Seed of the pretrain job to start from, if there are several; `same`: that of `seed`."""
    num_layers_transferred: int | None = Field(
        None, ge=0, le=96, json_schema_extra=paper("figure 2"),
    )
    """Pre-trained blocks to keep; the others get random weights (0: only the embeddings are kept).
    Training examples are then scored, too. Default: all blocks.
    """
    layers: int | None = Field(None, ge=1, le=96, json_schema_extra=paper("4.1"))
    """For `no_pretraining`: number of blocks."""
    width: int | None = Field(None, ge=8, le=16_384, json_schema_extra=paper("4.1"))
    """For `no_pretraining`: hidden size."""
    heads: int | None = Field(None, ge=1, le=256, json_schema_extra=paper("4.1"))
    """For `no_pretraining`: attention heads per block."""
    context: int | None = Field(None, ge=SHORTEST, le=8_192, json_schema_extra=paper("4.1"))
    """For `no_pretraining`: context length."""
    dropout: float = Field(0.1, ge=0, lt=1, json_schema_extra=paper("4.1"))
    """For `no_pretraining`: dropout inside the model."""
    init_std: float = Field(0.02, gt=0, lt=1, json_schema_extra=paper("4.1"))
    """For `no_pretraining`: standard deviation of weight initialization."""
    predict_test: bool = True
    """Predict the test set, and score it if its labels are public."""
    keep_model: bool | None = None
    """Save the weights of the best epoch (4 bytes per parameter). Default: only the first job of
    each task does, with `model: gpt` and variant `full` if there is one, and never `lstm`, label
    words or a part of the layers.
    """


class Finetune(Stage, PackableFinetuning):
    """One cell is one process."""

    settings_model = FinetuneSettings
    version = 2  # batches by length; the test set
    requires = ("pretrain", "vocabulary", "task_data")
    optional_inputs = ("encode",)

    @classmethod
    def supports_task(cls, task: str) -> bool:
        return is_trainable(task)

    @classmethod
    def complete(cls, cells: Sequence[FinetuneSettings]) -> Sequence[FinetuneSettings]:
        """Decide which cells keep their weights where no setting says so: of each task the first of
        model `gpt` and variant `full`, or of the next.

        None of an LSTM, whose weights are not those of a checkpoint, with label words, or with a
        part of the layers.
        """
        first: dict[str, FinetuneSettings] = {}
        for one in sorted(cells, key=lambda one: (one.model != "gpt", VARIANTS.index(one.variant))):
            kept = "lstm" not in (one.variant, one.model) and one.classifier == "linear"
            if kept and one.num_layers_transferred is None:
                first.setdefault(one.task, one)
        return [
            one.model_copy(update={"keep_model": first.get(one.task) is one})
            if one.keep_model is None
            else one
            for one in cells
        ]

    @classmethod
    def wants_input(cls, settings: FinetuneSettings, kind: str, upstream: Any) -> bool:
        if kind == "pretrain" and settings.variant == "no_pretraining":
            return False  # its scores can be had before, and kept after, any pre-training
        is_same = same_task(settings, kind, upstream) and has_seed(settings, kind, upstream)
        return is_same and is_model(kind, upstream, _model(settings))

    @classmethod
    def external_files(cls, settings: FinetuneSettings) -> list[ExternalFile]:
        """The class of a variant counts by content."""
        return variant_files(settings.model)

    @classmethod
    def check(cls, settings: FinetuneSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
        check_task_data(settings, upstream)
        if (count := len(upstream["task_data"])) > 1:
            raise UserError(
                f"{count} task_data jobs match task {settings.task!r}; expected one: narrow that"
                " stage's `matrix:`"
            )
        if settings.variant == "no_pretraining":
            _check_shape(settings)
            model: Any = settings
        else:
            if settings.variant == "lstm" and settings.model not in ("gpt", "lstm"):
                found = f"variant lstm has its own model, found `model: {settings.model}`"
                raise UserError(f"{found}; choose another variant, or drop `model`")
            check_pretrain(settings, upstream, _model(settings))
            [model] = upstream["pretrain"]
        if settings.keep_model and settings.classifier == "label_words":
            raise UserError(
                "a model with label words cannot be saved, as checkpoints have a linear layer; drop"
                " keep_model or use `classifier: linear`"
            )
        context, layers = (getattr(model, name, None) for name in ("context", "layers"))
        if context is not None and context < SHORTEST:
            raise UserError(
                f"the model's context is {context}; tasks need at least {SHORTEST}: use a model"
                " with a longer context"
            )
        if context is not None and (settings.max_length or 0) > context:
            raise UserError(
                f"max_length {settings.max_length} is longer than the model's context of {context};"
                " lower it"
            )
        if layers is not None and (settings.num_layers_transferred or 0) > layers:
            raise UserError(
                f"num_layers_transferred is {settings.num_layers_transferred}, but the"
                f" pre-trained model has {layers} layers; expected 0 to {layers}"
            )

    @classmethod
    def job(
        cls, settings: FinetuneSettings, cell: str, vocabulary: int, load: Callable[[], Vocabulary]
    ) -> FinetuneJob:
        """The job of a cell, for a `vocabulary` of that many tokens, which label words `load`."""
        from gpt1.tasks.dataset import LabelWords
        from gpt1.tasks.finetune import FinetuneJob

        shape = _shape(settings, vocabulary) if settings.variant == "no_pretraining" else None
        words = None
        if settings.classifier == "label_words":
            from gpt1.tokenizer.tokenizer import Tokenizer

            words = LabelWords.of(task_named(settings.task), Tokenizer(load()).encode)
        own = settings.model_dump(include=set(FinetuneConfig.model_fields))
        return FinetuneJob(
            cell, FinetuneConfig(**own), settings.variant, vocabulary, settings.predict_test, shape,
            settings.num_layers_transferred, words,
        )

    def run(self, settings: FinetuneSettings, context: Context) -> None:
        from gpt1.tasks.finetune import run_job
        from gpt1.tasks.metrics import score_line

        device, files = prepare(context), load_task_data(context)
        size, load = vocabulary_size(context), partial(load_vocabulary, context)
        job = self.job(settings, context.cell, size, load)
        weights = None
        if job.pretrained:
            weights = context.fetch(context.input("pretrain").file("model.safetensors"))
        decode = load_vocabulary(context).decode if files.task.kind == "generation" else None
        found = run_job(
            job, files, _texts_of(context), job.model(weights), device, context, decode
        )
        _write_test(context, files, found.test_predictions)
        _write_outcome(context, settings, files, found)
        if settings.keep_model:
            _keep(settings, found, files, context)
        assert found.result.score is not None
        line, seen = score_line(job.name, found.result.score), found.train_score
        if untrained := found.result.untrained:
            line += f"; {untrained.main:.1f} before fine-tuning"
        context.info(f"{line}; {seen.main:.1f} on {seen.n} training examples" if seen else line)


def _check_shape(settings: FinetuneSettings) -> None:
    """The variant no_pretraining has a model of its own."""
    if settings.model == "lstm" or isinstance(settings.pretrain_seed, int):
        raise UserError(
            "variant no_pretraining has no LSTM and no pretrain job; drop `model: lstm` and"
            " `pretrain_seed`, or choose another variant"
        )
    if settings.num_layers_transferred is not None:
        raise UserError(
            "variant no_pretraining has no layers to transfer; drop num_layers_transferred or"
            " choose another variant"
        )
    missing = [name for name in SHAPE if getattr(settings, name) is None]
    if missing:
        raise UserError(
            f"variant no_pretraining needs the model's shape: set {', '.join(missing)} as in"
            " the pre-trained model"
        )
    _shape(settings, vocabulary=1)  # raises UserError for a shape no model can have


def _shape(settings: FinetuneSettings, vocabulary: int) -> ModelConfig:
    given = {name: getattr(settings, name) for name in (*SHAPE, "dropout", "init_std")}
    return ModelConfig(vocabulary, kind=settings.model, **given)


def _model(settings: FinetuneSettings) -> str:
    """The kind of model that the pretrain job must have."""
    return "lstm" if settings.variant == "lstm" else settings.model


def _texts_of(context: Context) -> TextsOf:
    """The splits' ids: those of the encode stage where the workflow has one, else encoded here."""
    from gpt1.tasks.dataset import TokenizedTexts

    kept = context.inputs("encode")
    if kept:
        return lambda name, examples: TokenizedTexts.load(
            context.fetch(kept[0].file(f"{name}.safetensors")), examples
        )
    from gpt1.tokenizer.tokenizer import Tokenizer

    encode = Tokenizer(load_vocabulary(context)).encode
    return lambda _, examples: TokenizedTexts.of(examples, encode)


def _write_outcome(
    context: Context, settings: FinetuneSettings, files: TaskFiles, found: JobResult
) -> None:
    """scores.json, metrics.jsonl and predictions.jsonl, and the summary."""
    from gpt1.tasks.text_metrics import bleu_signature

    result, reached, tested = found.result, found.result.score, found.test_score
    assert reached is not None
    about: dict[str, Any] = {"seed": settings.seed, "cut": found.cut}
    if (seen := found.train_score) is None:
        about["variant"] = settings.variant
    else:
        about["num_layers_transferred"] = settings.num_layers_transferred
        about["layers"] = found.model.gpt.config.layers
        about |= {f"train_{seen.metric}": seen.main, "train_n": seen.n}
    if untrained := result.untrained:
        about["untrained"] = untrained.main
        about["standard_errors_above_untrained"] = reached.above(untrained)
    if "bleu" in files.task.metrics:
        about["bleu_signature"] = bleu_signature()
    scores = {
        "task": files.task.name, "title": files.task.title, "kind": files.task.kind,
        **reached.to_dict(), "best_epoch": result.best_epoch, "split": "dev",
        "scored_on": files.facts["scored_on"], "sample": files.facts["sample"],
        "train_rows": len(files.train), "rows": files.facts["rows"],
        "official_rows": dict(files.task.rows), "test": tested.to_dict() if tested else None,
        "paper": dict(files.task.paper), **about,
    }  # fmt: skip
    with context.open("scores.json") as file:
        text = json.dumps(scores, indent=2, sort_keys=True, ensure_ascii=False)
        file.write(f"{text}\n".encode())
    write_lines(context, "metrics.jsonl", result.curve)
    write_lines(context, "predictions.jsonl", prediction_rows(files.dev, result.predictions))
    kept = (
        "metric", "baseline", "baseline_kind", "standard_error", "standard_errors_above_baseline",
        "n", "sample", "train_rows", "best_epoch", *about,
    )  # fmt: skip
    shown = {f"test_{name}": value for name, value in tested.values.items()} if tested else {}
    context.summary({**reached.values, **shown, **{name: scores[name] for name in kept}})


def _write_test(context: Context, files: TaskFiles, found: Predictions) -> None:
    """Write the test predictions, of a whole set also as they are handed in."""
    from gpt1.tasks.submission import forms

    if not found:
        return
    write_lines(context, "test_predictions.jsonl", prediction_rows(files.test, found))
    if files.test_whole:
        for name, content in forms(files.task, files.test, found).items():
            with context.open(f"submission/{name}") as file:
                file.write(content)


def _keep(
    settings: FinetuneSettings, found: JobResult, files: TaskFiles, context: Context
) -> None:
    """The GPT (special tokens included) as model.safetensors, and beside it the head and what
    predicting needs to know.
    """
    from gpt1.tasks.model import FineTuned, save_head
    from gpt1.weights.store import CONFIG_FILE, save_model

    gpt, to = found.model.gpt, context.attempt
    length = settings.max_length or gpt.config.context
    tuned = FineTuned(found.model, files.task, length, settings.truncation)
    for path in (save_model(to, gpt), to / CONFIG_FILE, *save_head(to, tuned)):
        context.output(path.name)


STAGE = Finetune()
