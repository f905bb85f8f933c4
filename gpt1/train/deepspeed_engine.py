"""The engine over DeepSpeed: ZeRO 0-3 on any number of ranks, fp32 and bf16, on GPUs (NCCL) and
CPUs (gloo).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gpt1.errors import UserError
from gpt1.train._deepspeed_private import gather, import_deepspeed, scatter
from gpt1.train.checkpoint import WEIGHTS, TrainingState
from gpt1.train.config import PretrainConfig
from gpt1.train.dist import DistContext
from gpt1.train.engine import (
    PARTS,
    Engine,
    OptimizerConfig,
    Values,
    check_parameters,
    clip_gradients,
    copy_state,
    copy_weights,
    keep_freed_memory,
    make_optimizer,
    restore_state,
    shape_of,
)

# DeepSpeed reads these, and asks for MPI where one is missing. No launcher has set them where a
# process trains alone.
ALONE = {
    "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


class DeepSpeedEngine(Engine):
    """A module under `deepspeed.initialize`, with torch's AdamW and our own schedule."""

    def __init__(
        self, module: nn.Module, optimizer: OptimizerConfig, config: PretrainConfig,
        ranks: DistContext, accumulation: int,
    ) -> None:
        deepspeed = ranks.run_on_all_ranks(lambda: import_deepspeed(ranks.device))
        if ranks.device.type == "cpu":
            keep_freed_memory()
        self.ranks = ranks
        self.device = ranks.device
        self.seed = config.seed
        self.clip = optimizer.clip
        self.stage = config.zero
        # At stage 0 DeepSpeed only averages gradients; clipping and its norm are left to us.
        self.plain = self.stage == 0
        if config.precision == "bf16" and self.plain:
            # stage 0 keeps no fp32 masters beside bf16 weights and would drift, so there the
            # weights stay fp32 and torch casts
            autocast_inside(module, ranks.device)
        self.exact = self.plain or (config.precision == "fp32" and self.stage < 3)
        for name, value in ALONE.items():
            os.environ.setdefault(name, value)
        try:
            self.engine, *_ = deepspeed.initialize(
                model=module.to(ranks.device), optimizer=make_optimizer(module, optimizer),
                config=deepspeed_config(config, accumulation), dist_init_required=False,
            )
        except Exception as error:  # of many types
            if not config.deepspeed:
                raise
            reason = " ".join(str(error).split())
            raise UserError(
                f"deepspeed: DeepSpeed refuses its configuration with {config.deepspeed}"
                f" ({reason}); correct these overrides"
            ) from error
        self.module, self.optimizer = self.engine.module, self.engine.optimizer

    def weights(self) -> dict[str, Tensor]:
        if self.exact:
            return copy_weights(self.module)
        # the fp32 masters: parameters themselves are bf16, or spread over the ranks
        return gather(self.engine, self.stage, keep=True, parts=(WEIGHTS,)).parts[WEIGHTS]

    def copy_state(self) -> TrainingState | None:
        if not self.plain:
            state = gather(self.engine, self.stage, keep=self.ranks.is_main, parts=PARTS)
            return state if self.ranks.is_main else None
        return copy_state(self.module, self.optimizer) if self.ranks.is_main else None

    def load_state(self, state: TrainingState | None) -> None:
        first = state if self.ranks.is_main else None
        self.ranks.run_on_all_ranks(lambda: check_parameters(self.module, first) if first else None)
        updates = self.ranks.broadcast_object(first.updates if first else 0)
        values = self._broadcast(first)
        if self.plain:
            restore_state(self.module, self.optimizer, updates, values)
        else:
            scatter(self.engine, self.stage, updates, values)

    def _broadcast(self, state: TrainingState | None) -> Iterator[tuple[str, Values]]:
        """Rank 0's state on every rank, one parameter at a time: only rank 0 needs the memory for
        all of it.
        """
        for name, parameter in self.module.named_parameters():
            shape = shape_of(parameter)
            yield (
                name,
                {
                    part: self.ranks.broadcast(state.parts[part][name] if state else None, shape)
                    for part in PARTS
                },
            )

    def _forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self.engine(*inputs)

    def _accumulate(self, inputs: tuple[Tensor, ...], last: bool) -> Tensor:
        loss = self._forward(inputs)
        self.engine.backward(loss)
        if not last:
            # Counts the micro-batch; the last one's call, in _update, makes the update
            self.engine.step()
        return loss.detach()

    def _update(self) -> Tensor:
        norm = clip_gradients(self.module, self.clip) if self.plain else None
        self.engine.step()
        return norm if norm is not None else torch.as_tensor(self.engine.get_global_grad_norm())


def autocast_inside(module: nn.Module, device: torch.device) -> None:
    """Let `module` compute under torch's bf16 autocast: inside, for DeepSpeed switches off a
    CUDA autocast around its forward.
    """
    forward = module.forward

    def cast(*inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*inputs)

    module.forward = cast


def deepspeed_config(config: PretrainConfig, accumulation: int) -> dict[str, Any]:
    """DeepSpeed's configuration: ours, with the overrides of the setting `deepspeed`.

    Batch sizes follow from the number of ranks, and stage 0 clips nothing: that is left to us.
    """
    ours = {
        "zero_optimization": {"stage": config.zero},
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.grad_clip if config.zero else 0.0,
        "bf16": {"enabled": config.precision == "bf16" and config.zero > 0},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
    return merge(ours, config.deepspeed)


def merge(ours: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Both, objects within them merged too; `overrides` count."""
    found = dict(ours)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(ours.get(key), Mapping)
        found[key] = merge(ours[key], value) if both else value
    return found
