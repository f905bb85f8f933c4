"""A folder that holds a whole model: weights, shape and vocabulary, and a task head where it was
fine-tuned.

Two forms are read alike: ours (model.safetensors with our config.json) and that of `transformers`
(as `gpt1 export hf` writes it). Nothing is unpickled: weights come from safetensors files only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.tasks.model import HEAD_FILE, FineTuned, load_finetuned, save_head
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.weights.hf_import import HF_TYPE, read_hf
from gpt1.weights.store import CONFIG_FILE, MODEL_FILE, load_model, save_model


@dataclass(frozen=True)
class Checkpoint:
    """A model with its vocabulary; `tuned` where it has a task head (its GPT is then `model`)."""

    model: GPT
    vocabulary: Vocabulary
    tuned: FineTuned | None = None


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, in evaluation mode on the CPU.

    UserError names what is missing, damaged or does not fit.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; expected one with {MODEL_FILE}, {CONFIG_FILE} and a"
            " vocabulary's two files"
        )
    if is_hf(folder):
        model, vocabulary = read_hf(folder)
    else:
        model, vocabulary = load_model(folder), Vocabulary.load(folder)
    check_vocabulary(model, vocabulary, str(folder))
    tuned = load_finetuned(model, folder) if (folder / HEAD_FILE).exists() else None
    return Checkpoint(model.eval(), vocabulary, tuned)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> list[Path]:
    """Write a checkpoint in our form; returns its files, by name.

    The bytes depend on the checkpoint alone.
    """
    check_vocabulary(checkpoint.model, checkpoint.vocabulary, str(folder))
    files = [
        save_model(folder, checkpoint.model), folder / CONFIG_FILE,
        *checkpoint.vocabulary.save(folder),
    ]
    if checkpoint.tuned is not None:
        files += save_head(folder, checkpoint.tuned)
    return sorted(files)


def check_vocabulary(model: GPT, vocabulary: Vocabulary, where: str) -> None:
    """UserError when a model's rows are not those of the vocabulary."""
    if model.config.vocabulary != vocabulary.size:
        raise UserError(
            f"{where}: the model has {model.config.vocabulary} vocabulary rows,"
            f" {vocabulary.file_names[0]} {vocabulary.size} tokens; this is another model's"
            " vocabulary: use the one saved with the weights"
        )


def is_hf(folder: Path) -> bool:
    """Whether a folder's config.json is one of transformers."""
    try:
        found = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and (
        "model_type" in found or "n_embd" in found or HF_TYPE in str(found.get("architectures"))
    )
