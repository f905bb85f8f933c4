"""transfer: fine-tune with only the first N pre-trained blocks (the paper's figure 2, left)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from gpt1.errors import UserError
from gpt1.settings import paper
from gpt1.tasks.config import FinetuneConfig
from stages._finetuning import (
    check_inputs,
    is_model,
    load_encoder,
    load_task_data,
    prepare,
    same_task,
    texts_of,
    write_outcome,
)
from stages.contract import Context, Stage


class TransferSettings(FinetuneConfig):
    num_layers_transferred: int = Field(
        ge=0, le=96, json_schema_extra=paper("figure 2"),
        description="Number of pre-trained blocks to keep; 0: the embeddings only.",
    )


class Transfer(Stage):
    """Accuracy on dev, and on as many training examples, against the number of transferred
    blocks.
    """

    settings_model = TransferSettings
    version = 2  # batches by length
    requires = ("pretrain", "vocabulary", "task_data")
    optional_inputs = ("encode",)

    @classmethod
    def wants_input(cls, settings: TransferSettings, kind: str, upstream: Any) -> bool:
        return same_task(settings, kind, upstream) and is_model(kind, upstream, "gpt")

    @classmethod
    def check(cls, settings: TransferSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
        check_inputs(settings, upstream)
        for model in upstream.get("pretrain", ()):
            layers = getattr(model, "layers", None)
            if layers is not None and settings.num_layers_transferred > layers:
                raise UserError(
                    f"num_layers_transferred is {settings.num_layers_transferred}, but the"
                    f" pre-trained model has {layers} layers; expected 0 to {layers}"
                )

    def run(self, settings: TransferSettings, context: Context) -> None:
        from gpt1.tasks.finetune import (
            TaskInputs,
            finetune,
            load_pretrained,
            make_task_model,
            predict,
            reset_blocks,
        )
        from gpt1.tasks.metrics import score, score_line

        device = prepare(context)
        encoder, files = load_encoder(context), load_task_data(context)
        weights = context.fetch(context.input("pretrain").file("model.safetensors"))
        gpt = load_pretrained(weights, encoder.vocabulary.size)
        if settings.num_layers_transferred > gpt.config.layers:
            raise UserError(
                f"num_layers_transferred is {settings.num_layers_transferred}, but the pre-trained"
                f" model has {gpt.config.layers} layers; expected 0 to {gpt.config.layers}"
            )
        reset_blocks(gpt, settings.num_layers_transferred, settings.seed)
        inputs = TaskInputs(
            files, texts_of(context, encoder), gpt, context,
            max_length=settings.max_length, truncation=settings.truncation,
        )  # fmt: skip
        data, config = inputs.training(), settings
        model = make_task_model(gpt, data, config)
        result = finetune(model, data, config, device, context)
        seen = data.train[: len(data.dev)]
        labels = [example.label for example in seen]
        train = score(
            data.task, labels, predict(model, seen, data.task, config), (), config.seed
        )
        about = {
            "seed": settings.seed, "num_layers_transferred": settings.num_layers_transferred,
            "layers": gpt.config.layers,
            f"train_{train.metric}": train.main, "train_n": train.n, "cut": inputs.cut,
        }  # fmt: skip
        reached = write_outcome(context, files, result, about)
        name = (
            f"{settings.task} with {settings.num_layers_transferred} of {gpt.config.layers} layers"
            f" transferred, seed {settings.seed}"
        )
        context.info(f"{score_line(name, reached)}; {train.main:.1f} on {train.n} training rows")


STAGE = Transfer()
