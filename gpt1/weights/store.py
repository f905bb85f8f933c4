"""Models as safetensors files: fp32 weights, with the model's shape in the file's own metadata.

The bytes depend on the weights and the shape alone. There is one metadata key on purpose: the
library writes several in random order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
METADATA_KEY = "gpt1"


def save_model(path: Path, model: GPT) -> Path:
    """Write a model: into `path` if it ends in .safetensors, else into the folder `path` with a
    readable config.json beside it.

    Returns the weights' path.
    """
    return save_weights(path, model.state_dict(), model.config)


def save_weights(path: Path, weights: Mapping[str, Tensor], config: ModelConfig) -> Path:
    """The same from a state dictionary, whatever its device and precision."""
    file = path if path.suffix == ".safetensors" else path / MODEL_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in weights.items()
    }
    write_tensors(file, tensors, {METADATA_KEY: json.dumps(config.to_dict(), sort_keys=True)})
    if file != path:
        (path / CONFIG_FILE).write_text(
            json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8"
        )
    return file


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file with the mode that the umask gives; the library makes it 0600."""
    path.unlink(missing_ok=True)
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=metadata)
    path.chmod(mode)


def load_config(path: Path) -> ModelConfig:
    """The shape of the model in a file or folder written by `save_model`, without reading its
    weights.
    """
    return _read(path)[0]


def load_model(path: Path) -> GPT:
    """The model in a file or folder written by `save_model`, in fp32 on the CPU and in training
    mode, as torch leaves new modules.

    Raises UserError when the file is missing, damaged or of another program.
    """
    config, weights = _read(path, with_weights=True)
    return build_model(config, weights, str(path))


def build_model(config: ModelConfig, weights: Mapping[str, Tensor], where: str) -> GPT:
    """A model of these tensors, which it keeps.

    UserError names the first tensor that is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        model = GPT(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if expected != found:
        wrong = min(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        raise UserError(
            f"{where}: the tensors do not fit the model's shape; first difference at {wrong!r}:"
            f" found {_said(found.get(wrong))}, expected {_said(expected.get(wrong))}; create or"
            " download it again"
        )
    model.load_state_dict(dict(weights), assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def check_transformer(model: GPT, form: str) -> None:
    """UserError for the LSTM of the ablation, which the published `form` has no place for."""
    if model.config.kind != "gpt":
        kind = model.config.kind.upper()
        raise UserError(
            f"{form}: the model is an {kind}, but this format holds only Transformers; export a"
            " Transformer"
        )


def _said(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else f"shape {list(shape)}"


def _read(path: Path, with_weights: bool = False) -> tuple[ModelConfig, dict[str, Tensor]]:
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"{path}: no model weights in it; expected a .safetensors file or a folder with"
            f" {MODEL_FILE}"
        )
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
            names = handle.keys() if with_weights else []
            weights = {name: handle.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise UserError(
            f"{file}: not a complete safetensors file ({error}); create it again"
        ) from error
    if METADATA_KEY not in metadata:
        raise UserError(
            f"{file}: no {METADATA_KEY!r} in its metadata, so its shape is unknown; expected a file"
            " written by gpt1"
        )
    return ModelConfig.from_dict(json.loads(metadata[METADATA_KEY])), weights
