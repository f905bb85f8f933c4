"""Losses that are not finite, or jump: which step it was, and the books that its batch was read
from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gpt1.errors import UserError
from gpt1.train.pretrain_config import PretrainConfig

SHOWN = 8
BooksOf = Callable[[int], Sequence[str]]
"""The books that the batch of a step (0-based) was read from."""


class Diverged(UserError):
    """The `loss` of a `step` (counted from 1) is no finite number, or lies too far above
    `before`, the mean of the steps before (None: there were none).
    """

    def __init__(self, message: str, step: int, loss: float, before: float | None) -> None:
        super().__init__(message)
        self.step, self.loss, self.before = step, loss, before


def refuse_divergence(
    losses: Sequence[float], done: int, config: PretrainConfig, books_of: BooksOf,
    before: float | None = None, spike: float = 0.0,
) -> None:
    """Raise Diverged, with the books of the batch, when a loss of the steps up to `done` is no
    finite number, or lies more than `spike` nats (0: no bound) above `before`, the mean of the
    steps before.

    `rollback_spike` is such a bound too, where the configuration allows going back.
    """
    rise = min(
        (nats for nats in (spike,
        config.rollback_spike_threshold if config.max_rollbacks else 0.0) if nats),
        default=math.inf,
    )
    bound = before + rise if before is not None else math.inf
    for step, loss in enumerate(losses, start=done - len(losses) + 1):
        if math.isfinite(loss) and loss <= bound:
            continue
        what = (
            "training diverged"
            if not math.isfinite(loss)
            else f"the mean before it was {before:.4f}, and at most {rise:g} more is allowed"
        )
        raise Diverged(
            f"pretrain: the loss is {loss:.6g} at step {step} of {config.max_steps}; {what}. Its"
            f" batch is from the books {shown(books_of(step - 1))}. Check them, lower lr (now"
            f" {config.lr:g}) or raise warmup_steps (now {config.warmup_steps})",
            step,
            loss,
            before,
        )


def shown(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(repr(name) for name in names[:SHOWN]) + (
        f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    )
