"""encode: tokenize one task's texts once for all seeds, variants and transfer jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.tasks.config import TaskName
from stages._finetuning import (
    check_task_data,
    is_trainable,
    load_task_data,
    load_vocabulary,
    same_task,
)
from stages.contract import Context, Settings, Stage


class EncodeSettings(Settings):
    task: TaskName
    """Task to encode; needs a task_data job."""


class Encode(Stage):
    """A workflow may leave this stage out: each fine-tuning job then encodes for itself. A stage,
    because a job that waits for another while it holds a share of a GPU can deadlock.
    """

    settings_model = EncodeSettings
    requires = ("vocabulary", "task_data")

    @classmethod
    def supports_task(cls, task: str) -> bool:
        return is_trainable(task)

    @classmethod
    def wants_input(cls, settings: EncodeSettings, kind: str, upstream: Any) -> bool:
        return same_task(settings, kind, upstream)

    @classmethod
    def check(cls, settings: EncodeSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
        check_task_data(settings, upstream)

    def run(self, settings: EncodeSettings, context: Context) -> None:
        from gpt1.tasks.dataset import TokenizedTexts
        from gpt1.tokenizer.tokenizer import Tokenizer

        encode, files = Tokenizer(load_vocabulary(context)).encode, load_task_data(context)
        counts = {}
        for name, examples in (("train", files.train), ("dev", files.dev), ("test", files.test)):
            if not examples:
                continue
            texts = TokenizedTexts.of(examples, encode)
            with context.open(f"{name}.safetensors") as file:
                file.write(texts.to_bytes())
            counts[f"{name}_ids"] = len(texts.ids)
        context.summary({"task": settings.task, **counts})
        context.info(f"{settings.task}: {sum(counts.values()):,} tokens")


STAGE = Encode()
