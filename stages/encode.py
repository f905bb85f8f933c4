"""encode: tokenize one task's texts once for all seeds, variants and transfer jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from gpt1.errors import UserError
from gpt1.tasks.config import TaskName
from stages._finetuning import load_encoder, load_task_data, same_task
from stages.contract import Context, Settings, Stage


class EncodeSettings(Settings):
    task: TaskName = Field(description="Task to encode; needs a task_data job.")


class Encode(Stage):
    """A workflow may leave this stage out: each fine-tuning job then encodes for itself."""

    settings_model = EncodeSettings
    requires = ("vocabulary", "task_data")

    @classmethod
    def wants_input(cls, settings: EncodeSettings, kind: str, upstream: Any) -> bool:
        return same_task(settings, kind, upstream)

    @classmethod
    def check(cls, settings: EncodeSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
        if not upstream.get("task_data"):
            raise UserError(
                f"no task_data job for task {settings.task!r}; add it to that stage's `matrix:"
                " task`"
            )

    def run(self, settings: EncodeSettings, context: Context) -> None:
        from gpt1.tasks.dataset import TokenizedTexts

        encoder, files = load_encoder(context), load_task_data(context)
        counts = {}
        for name, examples in (("train", files.train), ("dev", files.dev), ("test", files.test)):
            if not examples:
                continue
            texts = TokenizedTexts.of(examples, encoder.encode)
            with context.open(f"{name}.safetensors") as file:
                file.write(texts.to_bytes())
            counts[f"{name}_ids"] = len(texts.ids)
        context.summary({"task": settings.task, **counts})
        context.info(f"{settings.task}: {sum(counts.values()):,} tokens")


STAGE = Encode()
