"""export: the pre-trained model as a folder `hf/` that transformers loads, with its vocabulary and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.contract import Context, Settings, Stage

CARD_FIGURES = {
    "validation_perplexity": "held-out perplexity",
    "unigram_perplexity": "unigram perplexity of the same text",
    "bigram_perplexity": "bigram perplexity of the same text",
    "tokens": "tokens seen",
    "epochs": "epochs",
    "steps": "updates",
}


class ExportSettings(Settings):
    """There is nothing to set: the export follows from the model and its vocabulary."""


class Export(Stage):
    """The files are written without transformers, which is needed only to read them."""

    settings_model = ExportSettings
    requires = ("pretrain", "vocabulary")

    def run(self, settings: ExportSettings, context: Context) -> None:
        from gpt1.text.vocabulary import Vocabulary
        from gpt1.weights.hf import export, model_card
        from gpt1.weights.store import load_model

        del settings
        pretrained = context.input("pretrain")
        vocabulary = Vocabulary.load(context.input("vocabulary").under("encoder_bpe_")[0].path.parent)
        model = load_model(pretrained.path("model.safetensors"))
        folder = context.attempt / "hf"
        files = export(folder, model, vocabulary, model_card(model.config, vocabulary, _figures(pretrained.summary)))
        for file in files:
            context.output(f"hf/{file.name}")
        context.summary({"parameters": model.config.parameters(), "files": len(files)})
        context.say(f"{len(files)} files for transformers in {folder}")


def _figures(summary: Mapping[str, Any]) -> dict[str, str]:
    """The card's rows: the pre-training's figures, as far as there are."""
    found = {label: summary[name] for name, label in CARD_FIGURES.items() if summary.get(name) is not None}
    return {label: f"{value:,}" if isinstance(value, int) else f"{value:.2f}" for label, value in found.items()}


STAGE = Export()
