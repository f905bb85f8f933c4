"""A diverged loss: which step it was, the books that its batch was read from, and the way back.

The same batch would give the same loss, so rolling back alone helps nothing. The batch is skipped,
and as many before it as set, for the step before may be what spoiled the weights (Chowdhery et al.
2022, section 5.1, did the same by hand). Every step is still made, with the next batch that is not
skipped. So the result is a function of the settings and the list of skipped batches, which is in
each checkpoint, and it does not matter which checkpoint there was to return to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gpt1.data.sequences import batch_of, skipped_in
from gpt1.errors import UserError
from gpt1.format import counted
from gpt1.train.config import PretrainConfig

SHOWN = 8
BooksOf = Callable[[int], Sequence[str]]
"""The books that the batch of a step (0-based) was read from."""


class Diverged(UserError):
    """The `loss` of a `step` (counted from 1) is not finite, or too far above
    `before`, the mean of the steps before (None: there were none).
    """

    def __init__(
        self, step: int, loss: float, before: float | None, config: PretrainConfig,
        books: Sequence[str], more: str = "",
    ) -> None:
        what = "training diverged"
        if math.isfinite(loss):
            allowed = f"at most {config.loss_spike_threshold:g} more is allowed"
            what = f"the mean before it was {before:.4f}, and {allowed}"
        super().__init__(
            f"pretrain: the loss is {loss:.6g} at step {step} of {config.max_steps}; {what}. Its"
            f" batch is from the books {first_names(books)}. Check them, lower lr (now"
            f" {config.lr:g}) or raise warmup_steps (now {config.warmup}){more}"
        )
        self.step, self.loss, self.before = step, loss, before


def first_names(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name) for name in names[:SHOWN]) + more


def plan_rollback(
    diverged: Diverged, events: Sequence[dict[str, Any]], config: PretrainConfig, books_of: BooksOf
) -> dict[str, Any]:
    """The rollback to add to the `events` before: the `step` that diverged (from 1) with its
    `loss` (None: no number) and the loss `before`, the step to return to at most (`first`: steps
    made), and the `batches` skipped with their `books`.

    Raises Diverged where the configuration allows no (further) rollback.
    """
    if not config.max_rollbacks:
        raise diverged
    step, loss, before = diverged.step, diverged.loss, diverged.before
    if len(events) >= config.max_rollbacks:
        times = ", ".join(f"at step {event['step']}" for event in events)
        more = (
            f". Training has already rolled back {counted(len(events), 'time')} ({times}), the"
            " limit set by max_rollbacks"
        )
        raise Diverged(step, loss, before, config, books_of(step - 1), more) from diverged
    first, skipped = max(0, step - config.skip_batches), skipped_in(events)
    steps = range(first, step)
    return {
        "step": step, "loss": loss if math.isfinite(loss) else None, "before": before,
        "first": first, "batches": [batch_of(one, skipped) for one in steps],
        "books": list(dict.fromkeys(book for one in steps for book in books_of(one))),
    }


def same_batches(steps: int, one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether the first `steps` steps have the same batches with either list of skipped ones."""
    last = batch_of(steps - 1, one)
    return [batch for batch in one if batch <= last] == [batch for batch in other if batch <= last]


def describe_rollback(event: dict[str, Any]) -> str:
    """One rollback for people."""
    loss = "not finite" if event["loss"] is None else f"{event['loss']:.4f}"
    batches = ", ".join(str(batch) for batch in event["batches"])
    return (
        f"the loss at step {event['step']} was {loss}; skipped batches {batches}, of"
        f" {first_names(event['books'])}"
    )
