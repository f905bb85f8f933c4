"""The initial weights of pre-training: drawn as in the paper, or those of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from gpt1.errors import UserError
from gpt1.model.gpt import GPT
from gpt1.rng import generator
from gpt1.text.vocabulary import Vocabulary
from gpt1.train.checkpoint import sha256
from gpt1.train.pretrain_config import PretrainConfig, RuntimeConfig

SHAPE = ("kind", "layers", "width", "heads", "context", "units")


def initial_model(config: PretrainConfig, place: RuntimeConfig, vocabulary: Vocabulary) -> GPT:
    """The model before the first update, in fp32 on the CPU.

    Raises UserError when the checkpoint in `place.init_from` is not whole, not that of
    `config.initial_sha256`, fine-tuned, or of another shape or vocabulary.
    """
    if not place.init_from:
        return GPT(config.model, generator("weights", config.seed))
    from gpt1.weights.checkpoint import load_checkpoint
    from gpt1.weights.store import MODEL_FILE, build_model

    file = Path(place.init_from) / MODEL_FILE
    found = load_checkpoint(file.parent)
    digest = sha256(file)
    if digest != config.initial_sha256:
        raise UserError(
            f"init_from: {file} has sha256 {digest}, expected {config.initial_sha256 or 'none'};"
            " the file has changed or differs on this host: restore the one that training started"
            " with"
        )
    if found.model.config.special_tokens:
        raise UserError(
            f"init_from: {place.init_from} is a fine-tuned model; use the pre-trained model it was"
            " made from"
        )
    if found.vocabulary.sha256 != vocabulary.sha256:
        raise UserError(
            f"init_from: {place.init_from} has another vocabulary ({found.vocabulary.size} tokens)"
            f" than the shards ({vocabulary.size}); set vocabulary.source={place.init_from}"
        )
    theirs, ours = found.model.config, config.model
    shapes = [(name, getattr(theirs, name), getattr(ours, name)) for name in SHAPE]
    other = [f"{name} {their}, here {our}" for name, their, our in shapes if their != our]
    if other:
        raise UserError(
            f"init_from: {place.init_from} has another shape ({'; '.join(other)}); set the model's"
            " shape to match it"
        )
    return build_model(ours, found.model.state_dict(), place.init_from)
