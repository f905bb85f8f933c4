"""Generation token by token, for one prompt or several at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gpt1.errors import UserError
from gpt1.generation.decoding import LanguageModel, Reader
from gpt1.generation.sampling import Sampling, choose

OnToken = Callable[[int, int], None]


def generate(
    model: LanguageModel, prompt: Sequence[int], new_tokens: int, sampling: Sampling,
    generator: torch.Generator,
) -> list[int]:
    """`new_tokens` ids that follow `prompt` (at least one id).

    Rows that are no vocabulary tokens are never chosen.

    What happens past the context: gpt1/generation/decoding.py. The model's mode is left as it was;
    dropout is off inside. `generator` is a CPU generator: the draw is the same on any device that
    gives the same logits.
    """
    return generate_batch(model, [prompt], new_tokens, sampling, [generator])[0]


def generate_batch(
    model: LanguageModel, prompts: Sequence[Sequence[int]], new_tokens: int, sampling: Sampling,
    generators: Sequence[torch.Generator], stop: Collection[int] = (),
    on_token: OnToken | None = None, cache: bool = True,
) -> list[list[int]]:
    """The ids that follow each prompt: up to `new_tokens`, or up to and with the first id of
    `stop`.

    Each prompt has a generator of its own, so that its text does not depend on the others.
    `on_token(prompt, id)` is called as ids are chosen. UserError for an empty prompt.
    """
    refuse_empty(prompts)
    written: list[list[int]] = [[] for _ in prompts]
    with evaluating(model):
        reader = Reader(model, prompts, new_tokens, cache)
        rows = list(range(len(prompts)))
        for _ in range(new_tokens):
            logits = reader.logits().float().cpu()  # (B, V)
            for place, row in enumerate(rows):
                token = choose(logits[place], sampling, generators[row])
                written[row].append(token)
                reader.texts[place].append(token)
                if on_token:
                    on_token(row, token)
            left = [place for place, row in enumerate(rows) if written[row][-1] not in stop]
            if not left:
                break
            if len(left) < len(rows):
                reader.select(left)
                rows = [rows[place] for place in left]
    return written


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
