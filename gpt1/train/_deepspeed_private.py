"""What DeepSpeed's public calls cannot do: a training's complete state in and out, at ZeRO 1 to 3.

It depends on attributes that another version of DeepSpeed may lack, so the version is checked. The
public `safe_get_*` and `safe_set_*` do most of the work. What is missing in 0.19.8:

- ZeRO 1 and 2 with two parameter groups: the moments of the second are not found (`_link_moments`).
- Before the first update there are no moments to set (`_make_moments`).
- A full set raises under ZeRO 3 where the ranks do not divide a parameter (`_local`).
- Setting the fp32 masters leaves the module's weights as they were (`_set_weight`).
- The optimizer's number of updates cannot be set (`scatter`).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.errors import UserError
from gpt1.train.checkpoint import WEIGHTS, TrainingState
from gpt1.train.engine import MOMENTS, Values, copy_to_cpu, shape_of

TESTED = ("0.19.8",)
"""The versions of DeepSpeed with which tests/gpt1/test_train_resume.py has passed."""


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, quiet, and on a CPU without the operator that it would compile for a minute
    (and that needs a compiler).

    Raises UserError for a version that was not tested.
    """
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    version = deepspeed.__version__.partition("+")[0]
    if version not in TESTED:
        raise UserError(
            f"deepspeed: found version {version}, expected {' or '.join(TESTED)}, the only ones"
            f" tested; run `pip install deepspeed=={TESTED[-1]}`, or train on one rank, which does"
            " not use it"
        )
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"torch\.distributed"
    )  # DeepSpeed's calls, a line each
    logger.setLevel(logging.ERROR)
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def gather(engine: Any, stage: int, *, keep: bool, parts: Sequence[str]) -> TrainingState:
    """The complete state, on the CPU: those of its `parts`.

    All ranks must call it; those that do not `keep` it get an empty one.
    """
    state = TrainingState(_updates(engine))
    _link_moments(engine, stage)
    for name, parameter in engine.module.named_parameters():
        for part in parts:
            complete = _gather(parameter, part)
            if keep:
                state.parts[part][name] = copy_to_cpu(complete)
    return state


@torch.no_grad()
def scatter(
    engine: Any, stage: int, updates: int, values: Iterable[tuple[str, Values]]
) -> None:
    """Give every rank its share of a complete state: of each parameter's `values`.

    All ranks must call it, with the same state, at the beginning or between updates: whatever
    weights and moments were there, spoiled ones too, are overwritten.
    """
    _make_moments(engine, stage)
    _link_moments(engine, stage)
    parameters = dict(engine.module.named_parameters())
    for name, tensors in values:
        _set_weight(engine, stage, parameters[name], tensors[WEIGHTS])
        for moment in MOMENTS:
            _set_moment(engine, stage, parameters[name], moment, tensors[moment])
    for state in engine.optimizer.optimizer.state.values():
        state["step"].fill_(updates)


def _updates(engine: Any) -> int:
    values = next(iter(engine.optimizer.optimizer.state.values()), None)
    return round(float(values["step"])) if values else 0


def _gather(parameter: nn.Parameter, part: str) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    complete = (
        safe_get_full_fp32_param(parameter)
        if part == WEIGHTS
        else safe_get_full_optimizer_state(parameter, part)
    )
    return complete.view(shape_of(parameter))


def _flat_shares(engine: Any, stage: int) -> Iterator[Tensor]:
    optimizer = engine.optimizer
    yield from (
        optimizer.fp32_partitioned_groups_flat
        if stage == 3
        else optimizer.single_partition_of_fp32_groups
    )


def _make_moments(engine: Any, stage: int) -> None:
    """Let the optimizer make its moments, by an update without gradient at rate 0, which changes
    no weight.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = 0.0
    for index, share in enumerate(_flat_shares(engine, stage)):
        share.grad = torch.zeros_like(share)
        engine.optimizer._optimizer_step(index)
        share.grad = None


def _link_moments(engine: Any, stage: int) -> None:
    """ZeRO 1 and 2 link parameters to their moments once, after the first group's first update,
    and so miss the other groups'.
    """
    if stage in (1, 2) and _updates(engine):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _set_weight(engine: Any, stage: int, parameter: nn.Parameter, value: Tensor) -> None:
    if stage == 3:
        import deepspeed
        from deepspeed.utils import safe_set_local_fp32_param

        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
        safe_set_local_fp32_param(parameter, _local(parameter, value, engine.device))
        return
    from deepspeed.utils import safe_set_full_fp32_param

    parameter.copy_(value)
    safe_set_full_fp32_param(parameter, value.to(engine.device))


def _set_moment(
    engine: Any, stage: int, parameter: nn.Parameter, moment: str, value: Tensor
) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if stage == 3:
        safe_set_local_optimizer_state(parameter, _local(parameter, value, engine.device), moment)
    else:
        safe_set_full_optimizer_state(parameter, value.to(engine.device), moment)


def _local(parameter: Any, value: Tensor, device: torch.device) -> Tensor:
    """This rank's share of a complete value under ZeRO 3: equal shares, the last padded."""
    share = parameter.ds_tensor.numel()
    flat = value.flatten()
    padded = F.pad(flat, (0, share * dist.get_world_size() - flat.numel()))
    return padded.narrow(0, share * dist.get_rank(), share).to(device)
