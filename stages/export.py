"""export: write the pre-trained and the saved fine-tuned models as folders transformers loads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from gpt1.errors import UserError
from stages._exported import write_export
from stages._finetuning import is_model
from stages.contract import MODELS, Artifact, Context, Settings, Stage, runtime_field
from stages.report import source_of

HEAD_CONFIG = "head.json"
PRETRAINED = "hf"  # the folder of the pre-trained model


class ExportSettings(Settings):
    include_finetuned: bool = True
    """Also export the fine-tuned models saved by `keep_model`."""
    registry_name: str = runtime_field("gpt1", max_length=100)
    """Model name in MLflow's registry; fine-tuned models append their task. Empty: do not register.
    """
    license: str = ""
    """License in the model card, as a Hugging Face hub identifier (`cc-by-4.0`)."""
    language: str = Field("en", pattern=r"^[a-z]{2,3}$")
    """Language in the model card, as an ISO 639 code."""

    @field_validator("license")
    @classmethod
    def _known(cls, name: str) -> str:
        from gpt1.report.model_card import check_license

        try:
            return check_license(name) if name else name
        except UserError as error:
            raise ValueError(str(error)) from error


class Export(Stage):
    """The files are written without transformers, which is needed only to read them.

    Cells of further stages go into the card, and all that led to a model into its workflow.yaml.
    """

    version = 6  # manifest.json and workflow.yaml
    settings_model = ExportSettings
    requires = ("pretrain", "vocabulary")
    optional_inputs = (
        "ingest", "clean", "split", "audit", "shard", "task_data", "encode", "finetune",
        "zero_shot",
    )  # fmt: skip

    @classmethod
    def wants_input(cls, settings: ExportSettings, kind: str, upstream: Any) -> bool:  # noqa: ARG003
        """Nothing of the LSTM and of variants: transformers has no class for them."""
        if kind in ("finetune", "zero_shot"):
            models = {getattr(upstream, "variant", ""), getattr(upstream, "model", "gpt")}
            return "lstm" not in models and is_model("pretrain", upstream, "gpt")
        return is_model(kind, upstream, "gpt")

    @classmethod
    def check(cls, settings: ExportSettings, upstream: Mapping[str, Sequence[Any]]) -> None:  # noqa: ARG003
        """Refuse other than one model."""
        if (found := len(upstream.get("pretrain", ()))) != 1:
            raise UserError(
                f"found {found} pretrain jobs with `model: gpt`, expected one: transformers has no"
                " class for other models, and the export holds one; change that stage's matrix, or"
                " remove this stage"
            )

    def run(self, settings: ExportSettings, context: Context) -> None:
        from gpt1.report.model_card import Publication
        from gpt1.tasks.model import load_finetuned
        from gpt1.tokenizer.vocabulary import Vocabulary
        from gpt1.weights.checkpoint import Checkpoint
        from gpt1.weights.manifest import CARD, MANIFEST_FILE, WORKFLOW_FILE
        from gpt1.weights.store import load_model

        learned, models, files = context.input("vocabulary"), dict[str, str](), list[str]()
        vocabulary = Vocabulary.load(
            context.fetch_folder(learned, learned.under("encoder_bpe_")[0].name)
        )

        def write(
            folder: str, task: str, found: Checkpoint, own: Artifact, shown: Sequence[Artifact]
        ) -> None:
            """Export the model of the job `own`, with a card about the jobs `shown`."""
            name = (settings.registry_name or "gpt1") + task
            others = [one for one in inputs if one is not own]
            written = write_export(
                context.attempt / folder, own.cell, found, [own, *others],
                [source_of(one, context.fetch) for one in shown],
                Publication(name, settings.language, settings.license), context.info,
            )
            for file in written:
                files.append(f"{folder}/{file.name}")
                context.output(files[-1], volatile=file.name in volatile)
            models[folder] = settings.registry_name and settings.registry_name + task

        # they name commit, run, and how many workers there were
        volatile = (CARD, MANIFEST_FILE, WORKFLOW_FILE)
        inputs, own = context.inputs(), context.input("pretrain")
        found = load_model(context.fetch(own.file("model.safetensors")))
        shown = [one for one in inputs if one.stage not in ("task_data", "encode")]
        write(PRETRAINED, "", Checkpoint(found, vocabulary), own, shown)
        common = [one for one in shown if one.stage not in ("finetune", "zero_shot")]
        for cell in context.inputs("finetune") if settings.include_finetuned else []:
            if HEAD_CONFIG in cell.files:
                kept = context.fetch_folder(cell, HEAD_CONFIG)
                gpt = load_model(kept / "model.safetensors")
                tuned = Checkpoint(gpt, vocabulary, load_finetuned(gpt, kept))
                folder = _tuned_folder(cell.cell)
                write(folder, f"-{cell.settings['task']}", tuned, cell, [*common, cell])
        context.summary({"parameters": found.config.parameters(), "files": len(files),
                         "exported": sorted(models)})
        if settings.registry_name:
            context.summary({MODELS: models})
        context.info(
            f"{len(files)} files for transformers in {context.attempt}: {', '.join(models)}"
        )


def _tuned_folder(cell: str) -> str:
    """`finetune[task=rte,seed=1]` -> `tuned/finetune-task-rte-seed-1`."""
    return "tuned/" + re.sub(r"[^\w.]+", "-", cell).strip("-")


def is_trained_by(folder: str, stage: str, cell: str) -> bool:
    """Whether the exported model in `folder` is that of the job `cell` of a kind of stage."""
    if folder == PRETRAINED:
        return stage in ("pretrain", "pretrained")
    return folder == _tuned_folder(cell)


STAGE = Export()
