"""A folder that holds a complete model: weights, shape and vocabulary, and a task head where it was
fine-tuned.

Two layouts are read alike: ours (model.safetensors with our config.json) and that of `transformers`
(as `gpt1 export hf` writes it). Nothing is unpickled: weights come from safetensors files only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.tasks.model import HEAD_FILE, FineTuned, load_finetuned, save_head
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.weights import CONFIG_FILE, MODEL_FILE
from gpt1.weights.hf import HF_TYPE, read_hf
from gpt1.weights.store import check_vocabulary, load_model, read_json, save_model


@dataclass(frozen=True)
class Checkpoint:
    """A model with its vocabulary; `tuned` where it has a task head (its GPT is then `model`)."""

    model: GPT
    vocabulary: Vocabulary
    tuned: FineTuned | None = None
    dropped: Sequence[str] = ()
    """Tensors of a task head that were left out, as it is not of this program."""


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """The checkpoint in `folder`, in evaluation mode on the CPU.

    UserError names what is missing, damaged or does not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; expected one with {MODEL_FILE}, {CONFIG_FILE} and a"
            " vocabulary's two files"
        )
    dropped: Sequence[str] = ()
    if is_hf(folder):
        model, vocabulary, dropped = read_hf(folder)
    else:
        model, vocabulary = load_model(folder), Vocabulary.load(folder)
    check_vocabulary(model.config, vocabulary, str(folder))
    if (folder / HEAD_FILE).exists():
        return Checkpoint(model.eval(), vocabulary, load_finetuned(model, folder))
    return Checkpoint(model.eval(), vocabulary, dropped=dropped)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> list[Path]:
    """Write a checkpoint in our form; returns its files, by name.

    The bytes depend on the checkpoint alone.
    """
    check_vocabulary(checkpoint.model.config, checkpoint.vocabulary, str(folder))
    weights = save_model(folder, checkpoint.model)
    files = [weights, folder / CONFIG_FILE, *checkpoint.vocabulary.save(folder)]
    return sorted([*files, *(save_head(folder, checkpoint.tuned) if checkpoint.tuned else [])])


def is_hf(folder: Path) -> bool:
    """Whether a folder's config.json is one of transformers. UserError where it is damaged."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    found = read_json(folder / CONFIG_FILE, "a model's config")
    return isinstance(found, dict) and (
        "model_type" in found or "n_embd" in found or HF_TYPE in str(found.get("architectures"))
    )
