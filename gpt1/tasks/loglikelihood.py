"""How likely a language model finds the end of a text, given its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gpt1.generation.decoding import LanguageModel, evaluating


@dataclass(frozen=True)
class Continuation:
    """Ids, of which the last `scored` are judged given all before them."""

    ids: list[int]
    scored: int


@dataclass(frozen=True)
class Scored:
    """`total` log-probability (nats) of the judged ids, their number, and whether each is the
    model's first choice.
    """

    total: float
    count: int
    greedy: bool

    @property
    def mean(self) -> float:
        """Nats an id; -inf where nothing was judged."""
        return self.total / self.count if self.count else float("-inf")


NOTHING = Scored(float("-inf"), 0, False)


def continuation(given: Sequence[int], scored: Sequence[int], context: int) -> Continuation:
    """`given` and `scored` in one; what does not fit is cut from the front of `given`, so that what
    is judged stays whole.

    With nothing before it the first id cannot be judged.
    """
    kept = list(scored[: context - 1])
    room = context - len(kept)
    ids = [*given[max(0, len(given) - room) :], *kept]
    return Continuation(ids, min(len(kept), max(0, len(ids) - 1)))


@torch.no_grad()
def score_continuations(
    gpt: LanguageModel, items: Sequence[Continuation], batch: int, device: torch.device
) -> list[Scored]:
    """Each continuation's score, in their order; `NOTHING` for one of which nothing can be
    judged.
    """
    found = [NOTHING] * len(items)
    judged = (place for place, item in enumerate(items) if item.scored > 0)
    by_length = sorted(judged, key=lambda place: (len(items[place].ids), place))
    with evaluating(gpt):
        for start in range(0, len(by_length), batch):
            places = by_length[start : start + batch]
            for place, scored in zip(
                places, _batch(gpt, [items[place] for place in places], device), strict=True
            ):
                found[place] = scored
    return found


def _batch(gpt: LanguageModel, items: Sequence[Continuation], device: torch.device) -> list[Scored]:
    ids = torch.zeros(len(items), max(len(item.ids) for item in items), dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, item in enumerate(items):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        mask[row, len(item.ids) - item.scored : len(item.ids)] = True
    ids, mask = ids.to(device), mask[:, 1:].to(device)  # (N, T), (N, T-1)
    hidden = gpt(ids)
    logits = gpt.vocabulary_logits(hidden[:, :-1][mask]).float()  # only where a token is judged
    targets, rows = ids[:, 1:][mask], mask.nonzero()[:, 0]
    losses = F.cross_entropy(logits, targets, reduction="none")
    sums = torch.zeros(len(items), device=device).index_add_(0, rows, losses)
    misses = torch.zeros(len(items), device=device).index_add_(
        0, rows, (logits.argmax(-1) != targets).float()
    )
    found = zip((-sums).tolist(), mask.sum(-1).tolist(), (misses == 0).tolist(), strict=True)
    return [Scored(total, count, first) for total, count, first in found]
