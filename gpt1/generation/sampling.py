"""How the next token is chosen: greedy, or drawn with temperature, top-k and top-p."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy; top_k 0 and top_p 1 keep the whole distribution."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


def choose(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One id from (V,) logits; a temperature so low that they overflow is greedy, too."""
    best = int(logits.argmax())
    if sampling.temperature == 0:
        return best
    scaled = logits / sampling.temperature
    if scaled[best].isinf():
        return best
    probabilities = F.softmax(restrict(scaled, sampling.top_k, sampling.top_p), dim=-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def restrict(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """(V,) logits, at -inf all but the `top_k` best and all beyond the smallest set of mass
    `top_p`. The best always stays.
    """
    values, order = logits.sort(descending=True, stable=True)
    keep = torch.ones_like(values, dtype=torch.bool)
    if top_k:
        keep[top_k:] = False
    before = F.softmax(values, dim=-1).cumsum(-1).roll(1)  # the mass of all better tokens
    before[0] = 0.0
    keep &= before < top_p
    return torch.full_like(logits, float("-inf")).scatter(0, order[keep], values[keep])
