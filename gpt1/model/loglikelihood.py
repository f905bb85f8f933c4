"""Log-likelihoods under a language model, in nats: of continuations (zero-shot tasks, section 5 of
the paper) and of texts (perplexity, bits per byte).

Rows that are no vocabulary tokens are left out of the softmax. The model must be in evaluation
mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gpt1.errors import UserError
from gpt1.model.gpt import GPT, token_losses

LARGEST = 700.0  # nats, so that a perplexity is a finite number


@dataclass(frozen=True)
class Continuation:
    """Ids, of which the last `scored` are judged given all before them."""

    ids: Sequence[int]
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
    model: GPT, items: Sequence[Continuation], batch: int
) -> list[Scored]:
    """Each continuation's score, in their order, `batch` of like length at a time; `NOTHING` for
    one of which nothing can be judged.

    An item has at most context + 1 ids: the last one is only judged.
    """
    found = [NOTHING] * len(items)
    judged = (place for place, item in enumerate(items) if item.scored > 0)
    by_length = sorted(judged, key=lambda place: (len(items[place].ids), place))
    for start in range(0, len(by_length), batch):
        places = by_length[start : start + batch]
        scores = _score_batch(model, [items[place] for place in places])
        for place, scored in zip(places, scores, strict=True):
            found[place] = scored
    return found


def _score_batch(model: GPT, items: Sequence[Continuation]) -> list[Scored]:
    device = model.tokens_embed.weight.device
    ids = torch.zeros(len(items), max(len(item.ids) for item in items), dtype=torch.int64)
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    for row, item in enumerate(items):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
        mask[row, len(item.ids) - item.scored : len(item.ids)] = True
    ids, mask = ids.to(device), mask[:, 1:].to(device)  # (N, T + 1), (N, T)
    hidden = model(ids[:, :-1])  # (N, T, C)
    logits = model.vocabulary_logits(hidden[mask])  # (R, V), only where a token is judged
    targets, rows = ids[:, 1:][mask], mask.nonzero()[:, 0]  # (R,)
    losses = token_losses(logits, targets).double()
    sums = losses.new_zeros(len(items)).index_add_(0, rows, losses)
    wrong = (logits.argmax(-1) != targets).double()
    misses = losses.new_zeros(len(items)).index_add_(0, rows, wrong)
    found = zip((-sums).tolist(), mask.sum(-1).tolist(), (misses == 0).tolist(), strict=True)
    return [Scored(total, count, first) for total, count, first in found]


@dataclass(frozen=True)
class TextScore:
    """`nats` over `targets` judged ids (all but the text's first).

    `bytes` of the UTF-8 text as given, before any cleaning.
    """

    name: str
    ids: int
    targets: int
    nats: float
    bytes: int

    @property
    def perplexity(self) -> float:
        """exp of the mean nats a judged id."""
        return math.exp(min(self.nats / self.targets, LARGEST))

    @property
    def bits_per_byte(self) -> float:
        """Bits the model needs a byte of the text as given.

        Encoding forgets case and spacing, so it is no lossless code's.
        """
        return self.nats / math.log(2) / self.bytes


def total(scores: Sequence[TextScore]) -> TextScore:
    """All texts together: sums, so that long texts count for more."""
    fields = ("ids", "targets", "nats", "bytes")
    return TextScore(
        "all", **{name: sum(getattr(score, name) for score in scores) for name in fields}
    )


def text_score(
    model: GPT, name: str, ids: Sequence[int], size: int, stride: int | None = None, batch: int = 8,
) -> TextScore:
    """The score of one text of `ids` and `size` bytes.

    It is read in windows of T = context ids that start `stride` ids apart. Each id but the first is
    judged once, in the first window that has it as a target; with the default stride of T/2 every
    id beyond the first window has at least T/2 ids before it. `stride` = T is how pre-training
    validates: windows side by side.

    UserError: fewer than two ids (nothing can be judged), or a stride outside 1 to the context.
    """
    T = model.config.context
    step = stride if stride is not None else max(1, T // 2)
    if not 1 <= step <= T:
        raise UserError(f"stride is {step}; expected 1 to the model's context of {T}")
    if len(ids) < 2:
        raise UserError(
            f"{name}: {len(ids)} tokens after cleaning, expected at least 2; give more text"
        )
    windows = [Continuation(ids[: T + 1], min(T, len(ids) - 1))]
    for start in range(step, max(step, len(ids) - 1 - (T - step)), step):
        window = ids[start : start + T + 1]
        windows.append(Continuation(window, len(window) - 1 - (T - step)))
    nats = -math.fsum(one.total for one in score_continuations(model, windows, batch))
    return TextScore(name, len(ids), len(ids) - 1, nats, size)
