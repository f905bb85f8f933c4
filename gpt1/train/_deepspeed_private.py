"""The complete state of a DeepSpeed engine in and out, whatever its ranks and ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.train.optimiser import MOMENTS
from gpt1.train.portable import PortableState, check_names, copy_state, restore_state


def gather(engine: Any, stage: int, *, keep: bool, moments: bool = True) -> PortableState:
    """The whole state, on the CPU.

    All ranks must call it; those that do not `keep` it get an empty one.
    """
    if stage == 0:
        return copy_state(engine.module, engine.optimizer) if keep else PortableState()
    state = PortableState(_updates(engine))
    _link_moments(engine, stage)
    for name, parameter in engine.module.named_parameters():
        for part in ("weights", *MOMENTS) if moments else ("weights",):
            whole = _whole(parameter, part)
            if keep:
                target = state.weights if part == "weights" else state.moments[part]
                target[name] = whole.detach().to("cpu", torch.float32, copy=True).contiguous()
    return state


@torch.no_grad()
def scatter(engine: Any, stage: int, state: PortableState) -> None:
    """Give every rank its share of a whole state.

    All ranks must call it, with the same state, at the beginning or between updates: whatever
    weights and moments were there, spoiled ones too, are overwritten.
    """
    if stage == 0:
        restore_state(engine.module, engine.optimizer, state)
        return
    check_names(engine.module, state)
    _make_moments(engine, stage)
    _link_moments(engine, stage)
    for name, parameter in engine.module.named_parameters():
        _set_weight(engine, stage, parameter, state.weights[name])
        for moment in MOMENTS:
            _set_moment(engine, stage, parameter, moment, state.moments[moment][name])
    for values in engine.optimizer.optimizer.state.values():
        values["step"].fill_(state.updates)


def _updates(engine: Any) -> int:
    values = next(iter(engine.optimizer.optimizer.state.values()), None)
    return round(float(values["step"])) if values else 0


def _whole(parameter: nn.Parameter, part: str) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    whole = (
        safe_get_full_fp32_param(parameter)
        if part == "weights"
        else safe_get_full_optimizer_state(parameter, part)
    )
    return whole.view(getattr(parameter, "ds_shape", parameter.shape))


def _flat_shares(engine: Any, stage: int) -> Iterator[Tensor]:
    optimiser = engine.optimizer
    yield from (
        optimiser.fp32_partitioned_groups_flat
        if stage == 3
        else optimiser.single_partition_of_fp32_groups
    )


def _make_moments(engine: Any, stage: int) -> None:
    """Let the optimiser make its moments, by an update without gradient at rate 0, which changes
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
    """This rank's share of a whole value under ZeRO 3: equal shares, the last padded."""
    share = parameter.ds_tensor.numel()
    flat = value.flatten()
    padded = F.pad(flat, (0, share * dist.get_world_size() - flat.numel()))
    return padded.narrow(0, share * dist.get_rank(), share).to(device)
