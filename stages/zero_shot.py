"""zero_shot: score a task by the language model alone at each snapshot (figure 2, right)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from gpt1.model.config import ModelKind
from gpt1.settings import runtime_field
from gpt1.tasks.config import PretrainSeed, TaskName
from gpt1.tasks.registry import TASKS, task_named
from stages._finetuning import (
    check_pretrain,
    check_task_data,
    has_seed,
    load_task_data,
    load_vocabulary,
    prepare,
    same_task,
    write_lines,
)
from stages.contract import Context, Settings, Stage

_SNAPSHOT = re.compile(r"step-(\d+)\.safetensors$")


class ZeroShotSettings(Settings):
    task: TaskName
    """Task to score, such as `race`, `dprd`, `cola` or `sst2`; needs a task_data job."""
    model: ModelKind = "gpt"
    """Pre-trained model to score."""
    pretrain_seed: PretrainSeed = runtime_field(None)
    """Seed of the pretrain job to score, if there are several; `same`: that of `seed`."""
    rows: int | None = Field(None, ge=1, le=10_000_000)
    """Score at most N dev examples; default: all."""
    seed: int = Field(1, ge=0, le=2**31 - 1)
    """Seed for the sample of examples."""
    batch_size: int = Field(32, ge=1, le=65536)
    """Sequences per forward pass."""

    @field_validator("task")
    @classmethod
    def _has_zero_shot(cls, name: str) -> str:
        if not task_named(name).zero_shot:
            known = ", ".join(other for other, one in TASKS.items() if one.zero_shot)
            raise ValueError(f"task {name!r} has no zero-shot scoring; choose one of: {known}")
        return name


class ZeroShot(Stage):
    """A curve of scores against the step, and the final model's score and predictions."""

    settings_model = ZeroShotSettings
    requires = ("pretrain", "vocabulary", "task_data")

    @classmethod
    def supports_task(cls, task: str) -> bool:
        return bool(task_named(task).zero_shot)

    @classmethod
    def wants_input(cls, settings: ZeroShotSettings, kind: str, upstream: Any) -> bool:
        if kind == "pretrain":
            is_same = getattr(upstream, "model", settings.model) == settings.model
            return is_same and has_seed(settings, kind, upstream)
        return same_task(settings, kind, upstream)

    @classmethod
    def check(cls, settings: ZeroShotSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
        check_task_data(settings, upstream)
        check_pretrain(settings, upstream, settings.model)

    def run(self, settings: ZeroShotSettings, context: Context) -> None:
        from gpt1.tasks.finetune import load_pretrained
        from gpt1.tasks.io import sample
        from gpt1.tasks.metrics import score_line
        from gpt1.tasks.zero_shot import normalized, zero_shot_score
        from gpt1.tokenizer.tokenizer import Tokenizer

        device, vocabulary = prepare(context), load_vocabulary(context)
        files = load_task_data(context)
        encode = Tokenizer(vocabulary).encode
        examples = sample(files.dev, settings.rows, settings.seed, "dev")
        models = _models(context)
        curve: list[dict[str, Any]] = []
        for number, (step, path) in enumerate(models, start=1):
            gpt = load_pretrained(path, vocabulary.size)
            score, predictions, chosen = zero_shot_score(
                gpt.to(device), examples, files.task, encode, settings.batch_size, settings.seed,
                files.train,
            )
            share, against = normalized(score, files.task)
            point = {**score.values, "normalized": share}
            error = {"standard_error": score.standard_error}
            curve.append({"step": step, **point, **error, **chosen})
            context.log(step, point)
            context.progress(number, len(models), "models")
        about = {
            "task": files.task.name, "normalized": share, "normalized_against": against,
            "split": "dev", "scored_on": files.facts["scored_on"],
            "sample": files.facts["sample"] or len(examples) < len(files.dev), **chosen,
        }  # fmt: skip
        rows = zip(examples, predictions, strict=True)
        write_lines(context, "curve.jsonl", curve)
        write_lines(context, "scores.json", [{**score.to_dict(), **about}])
        write_lines(
            context, "predictions.jsonl",
            [{"id": one.id, "label": one.label, "prediction": found} for one, found in rows],
        )
        figures = {name: value for name, value in score.to_dict().items() if name != "values"}
        context.summary({**score.values, **figures, **about})
        context.info(score_line(f"{settings.task} zero-shot", score))


def _models(context: Context) -> list[tuple[int, Path]]:
    """Step and file of each snapshot and of the final model, which takes the place of a snapshot
    of the same step.
    """
    pretrain = context.input("pretrain")
    found = {
        int(match[1]): context.fetch(file)
        for file in pretrain.under("snapshots/")
        if (match := _SNAPSHOT.search(file.name))
    }
    # The summary's steps: `lr_scaling: sqrt` makes other ones than the settings say. A given
    # model does not say how long it was trained, and its one point stands at 0.
    found[int(pretrain.summary.get("steps", pretrain.settings.get("max_steps", 0)))] = (
        context.fetch(pretrain.file("model.safetensors"))
    )
    return sorted(found.items())


STAGE = ZeroShot()
