"""AdamW as in the paper (section 4.1): decoupled decay on matrices and embeddings, none on biases
and layer norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from gpt1.train.reference_adam import ReferenceAdam

Kind = Literal["adamw", "reference"]
MOMENTS = ("exp_avg", "exp_avg_sq")  # both kinds call them so


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam's figures. `clip` bounds the global norm of the gradient (0: no clipping).

    `kind` is torch's fused `adamw`, or the `reference`: Adam as OpenAI's code of 2018 has it.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    kind: Kind = "adamw"


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: parameters of two or more dimensions with decay, the others without.

    An empty group is left out.
    """
    # ZeRO 3 empties parameters and keeps their true shape in ds_shape
    dimensions = [
        (p, len(getattr(p, "ds_shape", p.shape))) for p in module.parameters() if p.requires_grad
    ]
    groups = [
        {"params": [p for p, n in dimensions if n >= 2], "weight_decay": weight_decay},
        {"params": [p for p, n in dimensions if n < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """torch's fused AdamW, or the reference.

    Its learning rate is set before every update by the engine.
    """
    groups = parameter_groups(module, config.weight_decay)
    if config.kind == "reference":
        return ReferenceAdam(groups, betas=config.betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
