"""Learning rates as pure functions of the step: nothing to save, nothing to get out of step on a
resume.
"""

from __future__ import annotations

import math
from typing import Literal

PAPER_BATCH = 64
Schedule = Literal["cosine", "linear", "constant"]


def learning_rate(
    step: int, *, max_lr: float, warmup: int, steps: int, schedule: Schedule
) -> float:
    """The rate of update `step` (0-based) out of `steps`.

    It rises linearly from 0 so that update `warmup` (counted from 1) has `max_lr`, then falls along
    a half cosine (pre-training) or a line (fine-tuning; both section 4.1 of the paper), and would
    reach 0 at the update after the last. `constant` stays.
    """
    if step < warmup:
        return max_lr * (step + 1) / warmup
    if schedule == "constant":
        return max_lr
    progress = (step - warmup + 1) / (steps - warmup + 1)  # in (0, 1)
    if schedule == "linear":
        return max_lr * (1 - progress)
    return max_lr * 0.5 * (1 + math.cos(math.pi * progress))


def scale_to_batch(batch: int, *, steps: int, warmup: int, max_lr: float) -> dict[str, float | int]:
    """Steps, warm-up and rate planned for the paper's batch of 64, for another one.

    A deviation from the paper.

    The same number of tokens, and a rate that grows with the root of the batch (Malladi et al.
    2022, for Adam).
    """
    factor = batch / PAPER_BATCH
    fewer = max(1, round(steps / factor))
    return {
        "max_steps": fewer, "warmup_steps": min(round(warmup / factor), fewer - 1),
        "lr": max_lr * math.sqrt(factor),
    }
