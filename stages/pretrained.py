"""pretrained: use a model from elsewhere (`gpt1 import`) in place of pretrain and vocabulary."""

from __future__ import annotations

from gpt1.errors import UserError
from stages._checkpoint_files import checkpoint_files
from stages.contract import Context, ExternalFile, Settings, Stage, runtime_field


class PretrainedSettings(Settings):
    checkpoint: str = runtime_field(..., min_length=1)
    """Folder written by `gpt1 import` or `gpt1 export hf`: weights, shape and vocabulary.
    Fingerprinted by content.
    """


class Pretrained(Stage):
    """Stages that need `pretrain` or `vocabulary` take this one instead: fine-tuning without
    pre-training.
    """

    settings_model = PretrainedSettings
    provides = ("pretrain", "vocabulary")

    @classmethod
    def external_files(cls, settings: PretrainedSettings) -> list[ExternalFile]:
        return checkpoint_files(settings.checkpoint, "pretrained: `checkpoint`")

    def run(self, settings: PretrainedSettings, context: Context) -> None:
        from dataclasses import replace

        from gpt1.weights.checkpoint import load_checkpoint, save_checkpoint

        found = load_checkpoint(context.external_files[0].path.parent)
        if found.model.config.special_tokens:
            raise UserError(
                f"pretrained: {settings.checkpoint} is a fine-tuned model"
                f" ({found.model.config.special_tokens} special tokens); use the pre-trained model"
                " it was made from"
            )
        if found.dropped:
            context.info(f"skipped the task head: {', '.join(found.dropped)}")
        for file in save_checkpoint(context.attempt, replace(found, tuned=None)):
            context.output(file.name)
        config = found.model.config
        context.summary({"parameters": config.parameters(), "vocabulary": config.vocabulary})
        context.info(
            f"{config.parameters():,} parameters: {config.layers} layers, width {config.width},"
            f" {config.heads} heads, context {config.context}, {config.vocabulary:,} tokens"
        )


STAGE = Pretrained()
