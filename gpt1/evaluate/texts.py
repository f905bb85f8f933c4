"""Perplexity of texts, with bits per byte.

Windowing: a text is read in windows of T = context ids that start `stride` ids apart. Each id but
the first is judged once, in the first window that has it as a target; with the default stride of
T/2 every id beyond the first window has at least T/2 ids before it. `stride` = T is how
pre-training validates: windows side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gpt1.errors import UserError
from gpt1.generation.decoding import LanguageModel
from gpt1.model.gpt import token_losses


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
        return math.exp(self.nats / self.targets)

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


@torch.no_grad()
def text_score(
    model: LanguageModel, name: str, ids: Sequence[int], size: int, stride: int | None = None,
    batch: int = 8,
) -> TextScore:
    """The score of one text of `ids` and `size` bytes. The model must be in evaluation mode.

    UserError: fewer than two ids (nothing can be judged), or a stride outside 1 to the context.
    """
    T = model.config.context
    step = stride if stride is not None else max(1, T // 2)
    if not 1 <= step <= T:
        raise UserError(f"--stride {step}: expected 1 to the model's context of {T}")
    if len(ids) < 2:
        raise UserError(
            f"{name}: {len(ids)} tokens after cleaning, expected at least 2; give more text"
        )
    device = next(model.parameters()).device  # type: ignore[attr-defined]  # every model is an nn.Module
    starts = [0, *range(step, max(step, len(ids) - 1 - (T - step)), step)]
    nats = 0.0
    for at in range(0, len(starts), batch):
        nats += _batch_nats(model, ids, starts[at : at + batch], T, step, device)
    return TextScore(name, len(ids), len(ids) - 1, nats, size)


def _batch_nats(
    model: LanguageModel, ids: Sequence[int], starts: Sequence[int], T: int, step: int,
    device: torch.device,
) -> float:
    """The summed loss of those targets of each window that no window before it has judged."""
    windows = torch.zeros(len(starts), T + 1, dtype=torch.int64)
    judged = torch.zeros(len(starts), T, dtype=torch.bool)
    for row, start in enumerate(starts):
        window = ids[start : start + T + 1]
        windows[row, : len(window)] = torch.tensor(window)
        judged[row, (0 if start == 0 else T - step) : len(window) - 1] = True
    longest = int(judged.any(0).nonzero().max()) + 1
    windows, judged = windows[:, : longest + 1].to(device), judged[:, :longest].to(device)
    hidden = model(windows[:, :-1])  # (B, T, C)
    losses = token_losses(model.vocabulary_logits(hidden[judged]), windows[:, 1:][judged])
    return float(losses.double().sum())
