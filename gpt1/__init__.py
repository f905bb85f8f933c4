"""GPT-1 as a library: the names below, loaded when they are first used. (Results of a store:
`pipeline.results.open_store`. Reference: docs/reference/api.md.)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt1.api import generate, perplexity
    from gpt1.data.sequences import SequenceSampler
    from gpt1.data.shards import Shards
    from gpt1.model.config import ModelConfig
    from gpt1.model.gpt import GPT
    from gpt1.tokenizer.tokenizer import Tokenizer
    from gpt1.weights.checkpoint import Checkpoint, load_checkpoint

__all__ = [
    "GPT", "Checkpoint", "ModelConfig", "SequenceSampler", "Shards", "Tokenizer", "generate",
    "load_checkpoint", "perplexity",
]  # fmt: skip
_MODULES = {
    "GPT": "model.gpt", "Checkpoint": "weights.checkpoint", "ModelConfig": "model.config",
    "SequenceSampler": "data.sequences", "Shards": "data.shards",
    "Tokenizer": "tokenizer.tokenizer", "generate": "api",
    "load_checkpoint": "weights.checkpoint", "perplexity": "api",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    # Late, because torch and spaCy take seconds, and not every use needs both.
    if name not in _MODULES:
        raise AttributeError(f"module 'gpt1' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gpt1.{_MODULES[name]}"), name)
