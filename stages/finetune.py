"""finetune: train and score one task, seed and variant, with or without pre-training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import Field

from gpt1.errors import UserError
from gpt1.settings import paper
from gpt1.tasks.config import FinetuneConfig, Variant
from gpt1.tasks.transforms import SHORTEST
from stages._finetuning import (
    check_inputs,
    is_model,
    load_encoder,
    load_task_data,
    prediction_rows,
    prepare,
    same_task,
    texts_of,
    write_lines,
    write_outcome,
)
from stages.contract import Context, PackableFinetuning, Stage

if TYPE_CHECKING:
    from gpt1.tasks.finetune import FinetuneJob
    from gpt1.tasks.io import TaskFiles
    from gpt1.tasks.model import TaskModel
    from gpt1.tasks.registry import Task

SHAPE = ("layers", "width", "heads", "context")


VARIANTS: tuple[Variant, ...] = get_args(Variant)


class FinetuneSettings(FinetuneConfig):
    variant: Variant = Field(
        "full", json_schema_extra=paper("table 5"),
        description=(
            "Row of the paper's table 5: full, no auxiliary language-model loss, no pre-training,"
            " or the LSTM (needs a pretrain job with `model: lstm`)."
        ),
    )
    layers: int | None = Field(
        None, ge=1, le=96, json_schema_extra=paper("4.1"),
        description="For `no_pretraining`: number of blocks.",
    )
    width: int | None = Field(
        None, ge=8, le=16_384, json_schema_extra=paper("4.1"),
        description="For `no_pretraining`: hidden size.",
    )
    heads: int | None = Field(
        None, ge=1, le=256, json_schema_extra=paper("4.1"),
        description="For `no_pretraining`: attention heads per block.",
    )
    context: int | None = Field(
        None, ge=SHORTEST, le=8_192, json_schema_extra=paper("4.1"),
        description="For `no_pretraining`: context length.",
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, json_schema_extra=paper("4.1"),
        description="For `no_pretraining`: dropout inside the model.",
    )
    init_std: float = Field(
        0.02, gt=0, lt=1, json_schema_extra=paper("4.1"),
        description="For `no_pretraining`: standard deviation of weight initialization.",
    )
    predict_test: bool = Field(
        True, description="Predict the test set, and score it if its labels are public."
    )
    keep_model: bool | None = Field(
        None,
        description=(
            "Save the weights of the best epoch (4 bytes per parameter). Default: only the first"
            " job of each task does, with variant `full` if there is one, and never `lstm`."
        ),
    )


class Finetune(Stage, PackableFinetuning):
    """One cell is one process."""

    settings_model = FinetuneSettings
    version = 2  # batches by length; the test set
    requires = ("pretrain", "vocabulary", "task_data")
    optional_inputs = ("encode",)

    @classmethod
    def complete(cls, cells: Sequence[FinetuneSettings]) -> Sequence[FinetuneSettings]:
        """Decide which cells keep their weights where no setting says so: of each task the first of
        variant `full`, or of the next.

        None of an LSTM: its weights are not those of a checkpoint.
        """
        first: dict[str, FinetuneSettings] = {}
        for one in sorted(cells, key=lambda one: VARIANTS.index(one.variant)):
            if one.variant != "lstm":
                first.setdefault(one.task, one)
        return [
            (
                one.model_copy(update={"keep_model": first.get(one.task) is one})
                if one.keep_model is None
                else one
            )
            for one in cells
        ]

    @classmethod
    def wants_input(cls, settings: FinetuneSettings, kind: str, upstream: Any) -> bool:
        if kind == "pretrain":
            if settings.variant == "no_pretraining":
                return (
                    False  # so that its scores can be had before, and kept after, any pre-training
                )
            return is_model(kind, upstream, "lstm" if settings.variant == "lstm" else "gpt")
        return same_task(settings, kind, upstream)

    @classmethod
    def check(cls, settings: FinetuneSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
        check_inputs(settings, upstream)
        if settings.variant != "no_pretraining":
            if not upstream.get("pretrain"):
                model = "lstm" if settings.variant == "lstm" else "gpt"
                raise UserError(
                    f"variant {settings.variant} needs a pretrain job with `model: {model}`; add"
                    " it to that stage's matrix"
                )
            return
        missing = [name for name in SHAPE if getattr(settings, name) is None]
        if missing:
            raise UserError(
                f"variant no_pretraining needs the model's shape: set {', '.join(missing)} as in"
                " the pre-trained model"
            )
        assert settings.width is not None
        assert settings.heads is not None
        if settings.width % settings.heads:
            raise UserError(
                f"width {settings.width} is not divisible by heads {settings.heads}; choose a"
                f" multiple of {settings.heads}"
            )
        if (
            settings.max_length is not None
            and settings.context is not None
            and settings.max_length > settings.context
        ):
            raise UserError(
                f"max_length {settings.max_length} is longer than the model's context of"
                f" {settings.context}; lower it"
            )

    @classmethod
    def job(cls, settings: FinetuneSettings, cell: str, vocabulary: int) -> FinetuneJob:
        """The job of a cell, for a `vocabulary` of that many tokens."""
        from gpt1.model.config import ModelConfig
        from gpt1.tasks.finetune import FinetuneJob

        shape = None
        if settings.variant == "no_pretraining":
            given = {name: getattr(settings, name) for name in (*SHAPE, "dropout", "init_std")}
            shape = ModelConfig(vocabulary=vocabulary, **given)
        own = settings.model_dump(include=set(FinetuneConfig.model_fields))
        return FinetuneJob(
            cell, FinetuneConfig(**own), settings.variant, vocabulary, settings.predict_test, shape
        )

    def run(self, settings: FinetuneSettings, context: Context) -> None:
        from gpt1.tasks.finetune import load_pretrained, random_model, run_job
        from gpt1.tasks.metrics import score_line

        device = prepare(context)
        encoder, files = load_encoder(context), load_task_data(context)
        job = self.job(settings, context.cell, encoder.vocabulary.size)
        if job.pretrained:
            weights = context.fetch(context.input("pretrain").file("model.safetensors"))
            gpt = load_pretrained(weights, job.vocabulary)
        else:
            gpt = random_model(job)
        found = run_job(job, files, texts_of(context, encoder), gpt, device, context)
        if found.test_predictions:
            _write_test(context, files, found.test_predictions)
        about = {"seed": settings.seed, "variant": settings.variant, "cut": found.cut}
        score = write_outcome(context, files, found.result, about, found.test_score)
        if settings.keep_model:
            _keep(settings, found.model, files.task, context)
        context.info(score_line(job.name, score))


def _write_test(context: Context, files: TaskFiles, found: Sequence[float]) -> None:
    """Write the test predictions, of a whole set also as they are handed in."""
    from gpt1.tasks.submission import forms

    write_lines(context, "test_predictions.jsonl", prediction_rows(files.test, found))
    if files.test_whole:
        for name, content in forms(files.task, files.test, found).items():
            with context.open(f"submission/{name}") as file:
                file.write(content)


def _keep(settings: FinetuneSettings, model: TaskModel, task: Task, context: Context) -> None:
    """The GPT (special tokens included) as model.safetensors, and beside it the head and what
    predicting needs to know.
    """
    from gpt1.tasks.model import FineTuned, save_head
    from gpt1.weights.store import CONFIG_FILE, save_model

    tuned = FineTuned(
        model, task, settings.max_length or model.gpt.config.context, settings.truncation
    )
    files = [
        save_model(context.attempt, model.gpt), context.attempt / CONFIG_FILE,
        *save_head(context.attempt, tuned),
    ]
    for file in files:
        context.output(file.name)


STAGE = Finetune()
