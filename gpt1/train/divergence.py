"""Losses that are not finite, or jump: which step it was, and the books that its batch was read
from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gpt1.errors import UserError
from gpt1.train.pretrain_config import PretrainConfig
from gpt1.wording import counted

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


def batch_of(step: int, skipped: Sequence[int]) -> int:
    """The batch (0-based, in the order of the data) of the 0-based `step`: the step-th of those
    not `skipped` (ascending).
    """
    batch = step
    for out in skipped:
        if out > batch:
            break
        batch += 1
    return batch


def same_batches(steps: int, one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether the first `steps` steps have the same batches with either list of skipped ones."""
    last = batch_of(steps - 1, one)
    return [batch for batch in one if batch <= last] == [batch for batch in other if batch <= last]


def going_back(
    diverged: Diverged, events: Sequence[dict[str, Any]], config: PretrainConfig, books_of: BooksOf
) -> dict[str, Any]:
    """The event of going back, to add to those before: the `step` that diverged (from 1) with its
    `loss` (None: no number) and the loss `before`, the step to go back to at most (`first`: updates
    made), and the `batches` skipped with their `books`.

    Raises Diverged where the configuration allows no (further) going back.
    """
    spike = config.rollback_spike_threshold
    jumped = bool(spike) and diverged.before is not None and diverged.loss > diverged.before + spike
    if not config.max_rollbacks or not (jumped or not math.isfinite(diverged.loss)):
        raise diverged
    if len(events) >= config.max_rollbacks:
        times = ", ".join(f"at step {event['step']}" for event in events)
        raise Diverged(
            f"{diverged}. Training has already rolled back {counted(len(events), 'time')}"
            f" ({times}), the limit set by max_rollbacks",
            diverged.step,
            diverged.loss,
            diverged.before,
        ) from diverged
    skipped = skipped_in(events)
    first = max(0, diverged.step - config.skip_batches)
    steps = range(first, diverged.step)
    return {
        "step": diverged.step, "loss": diverged.loss if math.isfinite(diverged.loss) else None,
        "before": diverged.before, "first": first,
        "batches": [batch_of(step, skipped) for step in steps],
        "books": list(dict.fromkeys(book for step in steps for book in books_of(step))),
    }


def skipped_in(events: Sequence[dict[str, Any]]) -> list[int]:
    """The batches left out by all events, ascending."""
    return sorted(batch for event in events for batch in event["batches"])


def describe_rollback(event: dict[str, Any]) -> str:
    """One event for people."""
    loss = "not finite" if event["loss"] is None else f"{event['loss']:.4f}"
    batches = ", ".join(str(batch) for batch in event["batches"])
    return (
        f"the loss at step {event['step']} was {loss}; skipped batches {batches}, of"
        f" {shown(event['books'])}"
    )
