"""The portable form of a training's state: whole fp32 weights and moments in one safetensors file, for any ranks and any stage."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt1.errors import UserError
from gpt1.train.optimiser import MOMENTS

PORTABLE_FILE = "portable.safetensors"
KEY = "gpt1_training"


@dataclass
class PortableState:
    """What an update changes: `weights` and, by moment, `moments`, fp32 on the CPU under the parameters' names, and the number of
    `updates` the optimiser counted. Random state and data position follow from the step (docs/training.md)."""

    updates: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, dict[str, Tensor]] = field(default_factory=lambda: {moment: {} for moment in MOMENTS})


def write_portable(path: Path, state: PortableState) -> Path:
    """Write `state`; returns the path. Names in the file: `weights/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`."""
    tensors = {f"weights/{name}": tensor for name, tensor in state.weights.items()}
    for moment, values in state.moments.items():
        tensors |= {f"{moment}/{name}": tensor for name, tensor in values.items()}
    save_file(tensors, path, metadata={KEY: json.dumps({"updates": state.updates})})
    return path


def read_portable(path: Path) -> PortableState:
    """The state in a file. Raises UserError when it is missing or not such a file."""
    try:
        with safe_open(path, framework="pt") as handle:
            facts = json.loads((handle.metadata() or {})[KEY])
            state = PortableState(facts["updates"])
            for key in handle.keys():  # noqa: SIM118
                part, _, name = key.partition("/")
                (state.weights if part == "weights" else state.moments[part])[name] = handle.get_tensor(key)
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"{path}: no portable training state ({error!r}); a checkpoint made on other ranks or another ZeRO stage needs it. "
            f"Delete the checkpoint to use the one before, or go on with the ranks and the stage it was made with"
        ) from error
    return state
