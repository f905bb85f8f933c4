"""Text generation: greedy, or sampled with temperature, top-k and top-p (not in the paper, but wanted)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt1.model.gpt import GPT


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. Temperature 0 is greedy; top_k 0 and top_p 1 keep the whole distribution."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@torch.no_grad()
def generate(model: GPT, prompt: Sequence[int], new_tokens: int, sampling: Sampling, generator: torch.Generator) -> list[int]:
    """`new_tokens` ids that follow `prompt` (at least one id). Rows that are no vocabulary tokens are never chosen.

    When the text outgrows the context, its oldest half is forgotten. The model's mode is left as it was; dropout is off inside.
    `generator` is a CPU generator: the draw is the same on any device that gives the same logits.
    """
    training = model.training
    model.eval()
    device = model.tokens_embed.weight.device
    ids = list(prompt)
    for _ in range(new_tokens):
        window = ids[-model.config.context :] if len(ids) <= model.config.context else ids[-(model.config.context // 2 + 1) :]
        hidden = model(torch.tensor([window], device=device))  # (1, T, C)
        logits = model.vocabulary_logits(hidden[0, -1]).float().cpu()  # (V,)
        ids.append(choose(logits, sampling, generator))
    model.train(training)
    return ids[len(prompt) :]


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One id from (V,) logits."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = F.softmax(restrict(logits / sampling.temperature, sampling.top_k, sampling.top_p), dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def restrict(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """(V,) logits, at -inf all but the `top_k` best and all beyond the smallest set of mass `top_p`. The best always stays."""
    values, order = logits.sort(descending=True, stable=True)
    keep = torch.ones_like(values, dtype=torch.bool)
    if top_k:
        keep[top_k:] = False
    before = F.softmax(values, dim=-1).cumsum(-1).roll(1)  # the mass of all better tokens
    before[0] = 0.0
    keep &= before < top_p
    return torch.full_like(logits, float("-inf")).scatter(0, order[keep], values[keep])
