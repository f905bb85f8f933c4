"""The portable form of a training's state: whole fp32 weights and moments in one safetensors
file, for any ranks and any stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gpt1.errors import UserError
from gpt1.train.optimiser import MOMENTS
from gpt1.weights.store import write_tensors

PORTABLE_FILE = "portable.safetensors"
KEY = "gpt1_training"


@dataclass
class PortableState:
    """What an update changes: `weights` and, by moment, `moments`, fp32 on the CPU under the
    parameters' names, and the number of `updates` the optimiser counted. Random state and data
    position follow from the step (docs/explanation/training.md).
    """

    updates: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, Tensor]] = field(
        default_factory=lambda: {moment: {} for moment in MOMENTS}
    )


def copy_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> PortableState:
    """Copy to the CPU the state of an optimizer over `module`'s own, complete parameters.

    Before the first update there are no moments.
    """
    first = next(iter(optimizer.state.values()), None)
    state = PortableState(round(float(first["step"])) if first else 0)
    for name, parameter in module.named_parameters():
        state.weights[name] = _copy(parameter)
        for moment in MOMENTS if first else ():
            state.moments[moment][name] = _copy(optimizer.state[parameter][moment])
    return state


@torch.no_grad()
def restore_state(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: PortableState
) -> None:
    """Take over `state`; the inverse of `copy_state`. UserError where it is of another model."""
    check_names(module, state)
    # An update without gradient at rate 0: the optimizer allocates its moments.
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for name, parameter in module.named_parameters():
        parameter.copy_(state.weights[name])
        optimizer.state[parameter]["step"].fill_(state.updates)
        for moment in MOMENTS:
            optimizer.state[parameter][moment].copy_(state.moments[moment][name])


def check_names(module: nn.Module, state: PortableState) -> None:
    """Raise UserError unless `state` has exactly the parameters of `module`."""
    names = {name for name, _ in module.named_parameters()}
    if names != state.weights.keys():
        raise UserError(
            "checkpoint: its weights belong to another model; first difference"
            f" {min(names ^ state.weights.keys())!r}"
        )


def initial_state(weights: Mapping[str, Tensor]) -> PortableState:
    """The state before the first update: `weights` (fp32, complete, by parameter) and moments of
    zeros.
    """
    weights = {name: tensor.detach() for name, tensor in weights.items()}
    moments = {
        moment: {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        for moment in MOMENTS
    }
    return PortableState(0, weights, moments)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def write_portable(path: Path, state: PortableState) -> Path:
    """Write `state`; returns the path.

    Names in the file: `weights/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`.
    """
    tensors = {f"weights/{name}": tensor for name, tensor in state.weights.items()}
    for moment, values in state.moments.items():
        tensors |= {f"{moment}/{name}": tensor for name, tensor in values.items()}
    write_tensors(path, tensors, {KEY: json.dumps({"updates": state.updates})})
    return path


def read_portable(path: Path) -> PortableState:
    """The state in a file. Raises UserError when it is missing or not such a file."""
    try:
        with safe_open(path, framework="pt") as handle:
            facts = json.loads((handle.metadata() or {})[KEY])
            state = PortableState(facts["updates"])
            for key in handle.keys():  # noqa: SIM118
                part, _, name = key.partition("/")
                (state.weights if part == "weights" else state.moments[part])[name] = (
                    handle.get_tensor(key)
                )
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"{path}: no portable training state ({error!r}), which a resume needs. Delete the"
            " checkpoint to use the one before it"
        ) from error
    return state
