"""export: the pre-trained model as a folder `hf/` that transformers loads, and the fine-tuned ones that were kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stages._tuning import is_model
from stages.contract import MODELS, Artifact, Context, Settings, Stage, placement

if TYPE_CHECKING:
    from gpt1.text.vocabulary import Vocabulary
    from gpt1.weights.checkpoint import Checkpoint

HEAD_CONFIG = "head.json"
CARD = "README.md"


class ExportSettings(Settings):
    tuned: bool = Field(True, description="Whether fine-tuned models that were kept (`keep_model`) are exported as well.")
    register_as: str = placement(
        "gpt1", "The models' name in MLflow's registry; a fine-tuned one adds its task. Empty: none is registered.", max_length=100
    )


class Export(Stage):
    """The files are written without transformers, which is needed only to read them. Cells of further stages go into the card."""

    version = 3
    settings_model = ExportSettings
    requires = ("pretrain", "vocabulary")
    accepts = ("ingest", "split", "shard", "finetune", "zero_shot")

    @classmethod
    def selects(cls, settings: ExportSettings, kind: str, upstream: Any) -> bool:  # noqa: ARG003
        """Nothing of the LSTM: transformers has no class for it."""
        if kind in ("finetune", "zero_shot"):
            return "lstm" not in (getattr(upstream, "variant", None), getattr(upstream, "model", None))
        return is_model(kind, upstream, "gpt")

    def run(self, settings: ExportSettings, context: Context) -> None:
        from gpt1.text.vocabulary import Vocabulary
        from gpt1.weights.checkpoint import Checkpoint
        from gpt1.weights.facts import card_facts
        from gpt1.weights.store import load_model

        pretrained = context.input("pretrain")
        vocabulary = Vocabulary.load(context.input("vocabulary").under("encoder_bpe_")[0].path.parent)
        found = Checkpoint(load_model(pretrained.path("model.safetensors")), vocabulary)
        about = [(item.cell, item.summary) for kind in self.accepts for item in context.inputs(kind)]
        facts = card_facts(pretrained.settings, pretrained.summary, pretrained.made_by, about)
        files = _write(context, "hf", found, facts)
        models = {"hf": settings.register_as}
        for cell in context.inputs("finetune") if settings.tuned else []:
            if HEAD_CONFIG in cell.files:
                folder = f"tuned/{_plain(cell.cell)}"
                files += _write_tuned(context, folder, cell, vocabulary)
                models[folder] = f"{settings.register_as}-{cell.settings['task']}"
        context.summary({"parameters": found.model.config.parameters(), "files": len(files), "exported": sorted(models)})
        if settings.register_as:
            context.summary({MODELS: models})
        context.say(f"{len(files)} files for transformers in {context.attempt}: {', '.join(models)}")


def _write_tuned(context: Context, folder: str, cell: Artifact, vocabulary: Vocabulary) -> list[Path]:
    from gpt1.tasks.finetuned import load_finetuned
    from gpt1.weights.checkpoint import Checkpoint
    from gpt1.weights.facts import card_facts
    from gpt1.weights.store import load_model

    gpt = load_model(cell.path("model.safetensors"))
    tuned = load_finetuned(gpt, cell.path(HEAD_CONFIG).parent)
    return _write(context, folder, Checkpoint(gpt, vocabulary, tuned), card_facts(cell.settings, cell.summary, cell.made_by))


def _write(context: Context, folder: str, found: Checkpoint, facts: dict[str, dict[str, str]]) -> list[Path]:
    from gpt1.weights.card import model_card
    from gpt1.weights.hf import export

    card = model_card(found.model.config, found.vocabulary, facts, found.tuned)
    files = export(context.attempt / folder, found.model, found.vocabulary, card, found.tuned)
    for file in files:
        context.output(f"{folder}/{file.name}", volatile=file.name == CARD)  # the card names commit and run
    return files


def _plain(cell: str) -> str:
    """A cell's name as a folder's: `finetune[task=rte,seed=1]` -> `finetune-task-rte-seed-1`."""
    return re.sub(r"[^\w.]+", "-", cell).strip("-")


STAGE = Export()
