"""submission: write test predictions in the submission formats of GLUE, Story Cloze and RACE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from gpt1.errors import UserError
from gpt1.tasks.config import Variant
from stages.contract import Artifact, Context, Settings, Stage

FOLDER = "submission/"


class SubmissionSettings(Settings):
    variant: Variant = "full"
    """Variant whose predictions to submit."""
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    """Seed to submit; default: each task's best seed on dev."""


class Submission(Stage):
    """Of each task the cell with the best dev score (of equals the first cell) gives its
    predictions.
    """

    settings_model = SubmissionSettings
    requires = ("finetune",)

    @classmethod
    def wants_input(cls, settings: SubmissionSettings, kind: str, upstream: Any) -> bool:  # noqa: ARG003
        whole = upstream.num_layers_transferred is None
        right = upstream.variant == settings.variant
        return whole and right and settings.seed in (None, upstream.seed)

    @classmethod
    def check(cls, settings: SubmissionSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
        if not upstream.get("finetune"):
            seed = "" if settings.seed is None else f" and seed {settings.seed}"
            raise UserError(
                f"no finetune job has variant {settings.variant}{seed}, so there is nothing to"
                " submit; add one to that stage's matrix"
            )

    def run(self, settings: SubmissionSettings, context: Context) -> None:
        from gpt1.tasks.submission import GLUE_FILES, glue_zip

        chosen = _best(context)
        files = {task: cell.under(FOLDER) for task, (cell, _) in chosen.items()}
        outputs = {
            file.name.removeprefix(FOLDER): context.fetch(file).read_bytes()
            for found in files.values()
            for file in found
        }
        served = [name for groups in GLUE_FILES.values() for name in groups.values()]
        missing = [name for name in served if name not in outputs]
        glue = {name: outputs.pop(name) for name in served if name in outputs}
        others = len(outputs)
        if glue:
            outputs["glue.zip"] = glue_zip(glue)
        cells = {task: {"cell": cell.cell, "dev": dev} for task, (cell, dev) in chosen.items()}
        about = {
            "cells": cells, "variant": settings.variant, "in_glue_zip": sorted(glue),
            "missing_from_glue_zip": missing,
            "without_test_set": [task for task, found in files.items() if not found],
        }  # fmt: skip
        outputs["submission.json"] = json.dumps(about, indent=2, sort_keys=True).encode() + b"\n"
        for name, content in sorted(outputs.items()):
            with context.open(name) as file:
                file.write(content)
        context.summary(
            {"glue_files": len(glue), "glue_files_missing": len(missing), "other_files": others}
        )
        lacking = f"; missing: {', '.join(missing)}" if missing else ""
        context.info(
            f"{len(glue)} of {len(served)} GLUE submission files{lacking}; {others} other files"
        )


def _best(context: Context) -> dict[str, tuple[Artifact, float]]:
    """Of each task the cell with the best dev score, and that score in per cent."""
    best: dict[str, tuple[Artifact, float]] = {}
    for cell in context.inputs("finetune"):
        scores = json.loads(context.fetch(cell.file("scores.json")).read_bytes())
        value = float(scores["values"][scores["metric"]])
        if scores["task"] not in best or value > best[scores["task"]][1]:
            best[scores["task"]] = (cell, value)
    return best


STAGE = Submission()
