"""Adam with decoupled decay as in the 2018 code (docs/explanation/training.md), where it
differs from torch's AdamW.

With s = rate x sqrt(1 - b2^t) / (1 - b1^t), the scheduled and bias-corrected rate of update t:

    p <- p - s (m / (sqrt(v) + eps) + decay p)

torch decays by `rate` instead of s (a third of it at the first update with betas 0.9 and 0.999,
equal to it after some thousands), and adds eps after, not before, the second moment's correction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch


class ReferenceAdam(torch.optim.Optimizer):
    """State of each parameter: `step` (a float32 tensor, as torch's AdamW has it), `exp_avg` and
    `exp_avg_sq`.
    """

    def __init__(
        self, params: Iterable[Any], betas: tuple[float, float], eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """One update from the gradients; parameters without one are left alone."""
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if pairs:
                self._step_group(group, [p for p, _ in pairs], [gradient for _, gradient in pairs])

    def _step_group(
        self, group: dict[str, Any], parameters: list[torch.Tensor], gradients: list[torch.Tensor]
    ) -> None:
        first, second = group["betas"]
        states = [self._state(p) for p in parameters]
        updates = _count(states)
        m, v = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        torch._foreach_lerp_(m, gradients, 1 - first)
        torch._foreach_mul_(v, second)
        torch._foreach_addcmul_(v, gradients, gradients, 1 - second)
        rate = group["lr"] * math.sqrt(1 - second**updates) / (1 - first**updates)
        roots = torch._foreach_sqrt(v)
        torch._foreach_add_(roots, group["eps"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, m, roots, -rate)

    def _state(self, parameter: torch.Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            # on the CPU, so that reading it waits for no device
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _count(states: list[dict[str, Any]]) -> int:
    """Add one to each state's number of updates; all have the same, which is returned."""
    for state in states:
        state["step"] += 1
    return round(float(states[0]["step"]))
