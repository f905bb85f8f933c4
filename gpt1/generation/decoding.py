"""What generation asks of a model: the logits after each of several growing texts, with a key/value
cache where there is one.

Past the context: when a text has more ids than the context T, whole blocks of T - floor(T / 2) of
its oldest ids are forgotten, as many as need be, and what is left is read anew from position 0. The
model so always sees the newest floor(T / 2) + 1 to T ids, and the same ones whatever is cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import CachedGPT


class LanguageModel(Protocol):
    """A GPT, or any causal model of the same interface."""

    config: ModelConfig

    def __call__(self, ids: Tensor) -> Tensor: ...

    def vocabulary_logits(self, hidden: Tensor) -> Tensor: ...


def window_start(length: int, context: int) -> int:
    """How many of a text's oldest ids are forgotten when it has `length` ids."""
    if length <= context:
        return 0
    block = context - context // 2
    return -(-(length - context) // block) * block


class Reader:
    """The texts being written. `texts` holds all ids of each, prompts included."""

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int,
        cache: bool = True,
    ) -> None:
        self.texts = [list(prompt) for prompt in prompts]
        self._model = model
        self._context = model.config.context
        self._room = new_tokens
        # The LSTM of table 5 is run whole: its state is no key/value cache.
        self._cached = (
            CachedGPT(model)
            if cache and isinstance(model, GPT) and model.config.kind == "gpt"
            else None
        )
        self._starts: list[int] | None = None

    def logits(self) -> Tensor:
        """(B, V) on the model's device: the logits after each text.

        Rows that are no vocabulary tokens are not among them.
        """
        starts = [window_start(len(text), self._context) for text in self.texts]
        windows = [text[start:] for text, start in zip(self.texts, starts, strict=True)]
        if self._cached is None:
            return self._plain(windows)
        if starts == self._starts and self._cached.length < self._context:
            return self._cached.step([text[-1] for text in self.texts])
        self._starts = starts
        return self._cached.start(windows, self._room)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these texts, in this order; one may come more than once."""
        self.texts = [list(self.texts[row]) for row in rows]
        if self._cached is not None and self._starts is not None:
            self._starts = [self._starts[row] for row in rows]
            self._cached.select(rows)

    @torch.no_grad()
    def _plain(self, windows: list[list[int]]) -> Tensor:
        """Without a cache. Padding lies behind, where causality hides it."""
        device = next(self._model.parameters()).device  # type: ignore[attr-defined]  # every model is an nn.Module
        ids = torch.zeros(len(windows), max(map(len, windows)), dtype=torch.int64)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = torch.tensor(window)
        last = torch.tensor([len(window) - 1 for window in windows], device=device)
        hidden = self._model(ids.to(device))  # (B, T, C)
        return self._model.vocabulary_logits(
            hidden[torch.arange(len(windows), device=device), last]
        )
