"""The engine over DeepSpeed: ZeRO 0-3 on any number of ranks, fp32 and bf16, on GPUs (NCCL) and
CPUs (gloo).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt1.errors import UserError
from gpt1.train._deepspeed_private import gather, import_deepspeed, scatter
from gpt1.train.checkpoint import WEIGHTS, TrainingState
from gpt1.train.dist import DistContext
from gpt1.train.engine import (
    PARTS,
    Engine,
    Precision,
    TorchEngine,
    Values,
    check_parameters,
    clip_gradients,
    copy_state,
    keep_freed_memory,
    restore_state,
    shape_of,
)
from gpt1.train.optimizer import OptimizerConfig, make_optimizer
from gpt1.train.pretrain_config import DEEPSPEED_FOLDER, computes_alone

COMPUTED = (
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
    "gradient_clipping", "bf16",
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
        self, module: nn.Module, optimizer: OptimizerConfig, ranks: DistContext, *, settings: Path,
        seed: int, micro_batch: int, accumulation: int, precision: Precision,
    ) -> None:
        deepspeed = import_deepspeed(ranks.device)
        if ranks.device.type == "cpu":
            keep_freed_memory()
        merged = merge_settings(
            settings, ranks.world, micro_batch, accumulation, precision, optimizer.clip
        )
        self.ranks = ranks
        self.device = ranks.device
        self.seed = seed
        self.clip = optimizer.clip
        self.stage = int(merged["zero_optimization"]["stage"])
        self.plain = (
            self.stage == 0
        )  # then DeepSpeed only averages gradients; clipping and its norm are left to us
        if precision == "bf16" and self.plain:
            # stage 0 keeps no fp32 masters beside bf16 weights and would drift, so there the
            # weights stay fp32 and torch casts
            autocast_inside(module, ranks.device)
        self.exact = self.plain or (precision == "fp32" and self.stage < 3)
        for name, value in ALONE.items():
            os.environ.setdefault(name, value)
        self.engine, *_ = deepspeed.initialize(
            model=module.to(ranks.device), optimizer=make_optimizer(module, optimizer),
            config=merged, dist_init_required=False,
        )
        self.module = self.engine.module

    def weights(self) -> dict[str, Tensor]:
        if self.exact:
            return {
                name: p.detach().float().cpu().clone() for name, p in self.module.named_parameters()
            }
        # the fp32 masters: parameters themselves are bf16, or spread over the ranks
        return gather(self.engine, self.stage, keep=True, parts=(WEIGHTS,)).weights

    def copy_state(self) -> TrainingState | None:
        if not self.plain:
            state = gather(self.engine, self.stage, keep=self.ranks.is_main, parts=PARTS)
            return state if self.ranks.is_main else None
        return copy_state(self.module, self.engine.optimizer) if self.ranks.is_main else None

    def load_state(self, state: TrainingState | None) -> None:
        first = state if self.ranks.is_main else None
        self.ranks.run_on_all_ranks(lambda: check_parameters(self.module, first) if first else None)
        updates = self.ranks.broadcast_object(first.updates if first else 0)
        values = self._broadcast(first)
        if self.plain:
            restore_state(self.module, self.engine.optimizer, updates, values)
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
                    part: self.ranks.broadcast(state.get(part, name) if state else None, shape)
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

    def _set_learning_rate(self, rate: float) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate


def autocast_inside(module: nn.Module, device: torch.device) -> None:
    """Let `module` compute under torch's bf16 autocast: inside, for DeepSpeed switches off a
    CUDA autocast around its forward.
    """
    forward = module.forward

    def cast(*inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*inputs)

    module.forward = cast


def make_engine(
    module: nn.Module, optimizer: OptimizerConfig, ranks: DistContext, *, settings: Path, seed: int,
    micro_batch: int, accumulation: int, precision: Precision, zero_on_one_rank: bool = False,
) -> Engine:
    """The engine of these ranks: DeepSpeed's, or torch's where a rank alone has nothing to
    partition or to average.

    There every ZeRO stage would compute the same and only copy; `zero_on_one_rank` asks for
    DeepSpeed all the same, whose settings may move the optimizer to the host's memory.
    """
    if computes_alone(ranks.world, zero_on_one_rank):
        _read_settings(settings)
        return TorchEngine(
            module, optimizer, seed=seed, accumulation=accumulation, precision=precision,
            device=ranks.device,
        )
    return DeepSpeedEngine(
        module, optimizer, ranks, settings=settings, seed=seed, micro_batch=micro_batch,
        accumulation=accumulation, precision=precision,
    )  # fmt: skip


def merge_settings(
    file: Path, world: int, micro_batch: int, accumulation: int, precision: Precision, clip: float
) -> dict[str, Any]:
    """DeepSpeed's settings: those of `file`, with the fields that follow from our own filled in.

    In the file those fields are absent or "auto"; anything else raises UserError, for it would
    silently train something else.
    """
    settings = _read_settings(file)
    stage = settings["zero_optimization"]["stage"]
    settings["train_micro_batch_size_per_gpu"] = micro_batch
    settings["gradient_accumulation_steps"] = accumulation
    settings["train_batch_size"] = micro_batch * accumulation * world
    settings["gradient_clipping"] = 0.0 if stage == 0 else clip
    settings["bf16"] = {"enabled": precision == "bf16" and stage > 0}
    return settings


def stage_in_force(file: Path, ranks: DistContext, zero_on_one_rank: bool = False) -> int:
    """The ZeRO stage that a training with these settings computes by.

    Raises UserError as `merge_settings` does.
    """
    stage = int(_read_settings(file)["zero_optimization"]["stage"])
    return 0 if computes_alone(ranks.world, zero_on_one_rank) else stage


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(
            f"{file}: DeepSpeed's settings are missing; expected one of the files of"
            f" {DEEPSPEED_FOLDER}"
        )
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: not valid JSON ({error}); fix the file") from error
    for name in COMPUTED:
        if settings.get(name, "auto") != "auto":
            raise UserError(
                f"{file}: {name} is {settings[name]!r}; it follows from the stage's settings, so"
                ' write "auto"'
            )
    stage = settings.get("zero_optimization", {}).get("stage")
    if stage not in (0, 1, 2, 3):
        raise UserError(f"{file}: zero_optimization.stage is {stage!r}, expected 0, 1, 2 or 3")
    return settings
