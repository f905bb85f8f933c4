"""Generation token by token for several prompts at once, with a key/value cache where possible.

Past the context: when a text has more ids than the context T, whole blocks of T - floor(T / 2) of
its oldest ids are forgotten, as many as need be, and what is left is read anew from position 0. The
model so always sees the newest floor(T / 2) + 1 to T ids, and the same ones whatever is cached.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.generation.sampling import Sampling, choose
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.model.kv_cache import CachedGPT

OnToken = Callable[[int, int], None]


class LanguageModel(Protocol):
    """A GPT, or any causal model of the same interface."""

    config: ModelConfig

    def __call__(self, ids: Tensor) -> Tensor: ...

    def vocabulary_logits(self, hidden: Tensor, end: int | None = None) -> Tensor: ...


def generate(
    model: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int, sampling: Sampling,
    generators: Sequence[torch.Generator], stop: Collection[int] = (),
    on_token: OnToken | None = None, cache: bool = True, end: int | None = None,
) -> list[list[int]]:
    """The ids that follow each prompt (at least one id): up to `new_tokens`, or up to and with the
    first id of `stop`, or `end`. Rows that are no vocabulary tokens are never chosen, but for the
    special token `end`.

    Each prompt has a CPU generator of its own, so that its text does not depend on the others, and
    is the same on any device that gives the same logits. `on_token(prompt, id)` is called as ids
    are chosen. The model's mode is left as it was; dropout is off inside. UserError for an empty
    prompt.
    """
    refuse_empty(prompts)
    written: list[list[int]] = [[] for _ in prompts]
    ends = {*stop, end}
    with evaluating(model):
        state = DecodingState(model, prompts, new_tokens, cache, end)
        rows = list(range(len(prompts)))
        for _ in range(new_tokens):
            logits = state.logits().float().cpu()  # (B, V)
            for place, row in enumerate(rows):
                token = choose(logits[place], sampling, generators[row])
                written[row].append(token)
                state.texts[place].append(token)
                if on_token:
                    on_token(row, token)
            left = [place for place, row in enumerate(rows) if written[row][-1] not in ends]
            if not left:
                break
            if len(left) < len(rows):
                state.select(left)
                rows = [rows[place] for place in left]
    return written


def window_start(length: int, context: int) -> int:
    """How many of a text's oldest ids are forgotten when it has `length` ids."""
    if length <= context:
        return 0
    block = context - context // 2
    return -(-(length - context) // block) * block


class DecodingState:
    """The texts being written. `texts` holds all ids of each, prompts included."""

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int,
        cache: bool = True, end: int | None = None,
    ) -> None:
        self.texts = [list(prompt) for prompt in prompts]
        self._model = model
        self._context = model.config.context
        self._room, self._end = new_tokens, end
        # The LSTM of table 5 is run whole: its state is no key/value cache. So are variants, whose
        # forward pass the cache does not know.
        self._cached = (
            CachedGPT(model, end)
            if cache and type(model) is GPT and model.config.kind == "gpt"
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
            hidden[torch.arange(len(windows), device=device), last], self._end
        )


def refuse_empty(prompts: Sequence[Sequence[int]]) -> None:
    """UserError when a prompt has no id to start from."""
    for number, prompt in enumerate(prompts, start=1):
        if not prompt:
            raise UserError(
                f"prompt {number} is empty; expected at least one token to continue from: write a"
                " word"
            )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Dropout off inside; the model's mode is left as it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
