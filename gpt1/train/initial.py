"""The weights of another model, to begin pre-training with."""

from __future__ import annotations

from pathlib import Path

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.train.checkpoint import file_sha256
from gpt1.train.config import RuntimeConfig
from gpt1.weights.checkpoint import load_checkpoint
from gpt1.weights.store import MODEL_FILE, build_model

SHAPE = ("kind", "layers", "width", "heads", "context", "units")


def load_initial(ours: ModelConfig, runtime: RuntimeConfig, vocabulary: Vocabulary) -> GPT:
    """The model in `runtime.initial`, in fp32 on the CPU.

    Raises UserError when it is not complete, not that of `runtime.initial_sha256`, fine-tuned, or
    of another shape or vocabulary.
    """
    file = Path(runtime.initial) / MODEL_FILE
    found = load_checkpoint(file.parent)
    digest = file_sha256(file)
    if digest != runtime.initial_sha256:
        raise UserError(
            f"init_from: {file} has sha256 {digest}, expected {runtime.initial_sha256 or 'none'};"
            " the file has changed or differs on this host: restore the one that training started"
            " with"
        )
    if found.model.config.special_tokens:
        raise UserError(
            f"init_from: {runtime.initial} is a fine-tuned model; use the pre-trained model it was"
            " made from"
        )
    if found.vocabulary.sha256 != vocabulary.sha256:
        raise UserError(
            f"init_from: {runtime.initial} has another vocabulary ({found.vocabulary.size} tokens)"
            f" than the shards ({vocabulary.size}); set vocabulary.source={runtime.initial}"
        )
    theirs = found.model.config
    shapes = [(name, getattr(theirs, name), getattr(ours, name)) for name in SHAPE]
    other = [f"{name} {their}, here {our}" for name, their, our in shapes if their != our]
    if other:
        raise UserError(
            f"init_from: {runtime.initial} has another shape ({'; '.join(other)}); set the model's"
            " shape to match it"
        )
    return build_model(ours, found.model.state_dict(), runtime.initial)
