"""Going back after a diverged loss: which batches are left out, so that what follows is another
training.

The same batch would give the same loss, so going back alone helps nothing. The batch is left out,
and as many before it as set, for the update before may be what spoiled the weights (Chowdhery et
al. 2022, section 5.1, did the same by hand). Every step still makes its update, with the next batch
that is not left out. So the result is a function of the settings and the list of batches left out,
which stands in each checkpoint, and it does not matter which checkpoint there was to go back to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpt1.train.divergence import BooksOf, Diverged, shown
from gpt1.train.pretrain_config import PretrainConfig
from gpt1.wording import counted


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
