"""Models as safetensors files: fp32 weights, with the model's shape in the file's own metadata.

The bytes depend on the weights and the shape alone. There is one metadata key on purpose: the
library writes several in random order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt1.errors import UserError
from gpt1.format import counted, number
from gpt1.model.config import ModelConfig, model_class
from gpt1.model.gpt import GPT
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.weights import CONFIG_FILE, MODEL_FILE

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
    tensors = {name: as_fp32(tensor) for name, tensor in weights.items()}
    write_tensors(file, tensors, {METADATA_KEY: json.dumps(config.to_dict(), sort_keys=True)})
    if file != path:
        write_json(path / CONFIG_FILE, config.to_dict())
    return file


def as_fp32(tensor: Tensor) -> Tensor:
    """The tensor as files hold it: fp32, on the CPU, contiguous."""
    return tensor.detach().to("cpu", torch.float32).contiguous()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object for people to read, its keys sorted."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path, expected: str) -> Any:
    """The content of a JSON file; UserError where it is missing (`expected` says what should be
    there), cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        found = "no such file" if not path.exists() else f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {found}; expected {expected}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); download it again") from error


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file with the mode that the umask gives; the library makes it 0600."""
    path.unlink(missing_ok=True)
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=metadata)
    path.chmod(mode)


def load_model(path: Path) -> GPT:
    """The model in a file or folder written by `save_model`, in fp32 on the CPU and in training
    mode, as torch leaves new modules.

    Raises UserError when the file is missing, damaged or of another program.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"{path}: no model weights in it; expected a .safetensors file or a folder with"
            f" {MODEL_FILE}"
        )
    metadata, weights = read_tensors(file)
    if METADATA_KEY not in metadata:
        raise UserError(
            f"{file}: no {METADATA_KEY!r} in its metadata, so its shape is unknown; expected a file"
            " written by gpt1"
        )
    try:
        values = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: {METADATA_KEY!r} in its metadata is not JSON ({error}); create it again"
        ) from error
    return build_model(model_config(values, str(file)), weights, str(path))


def build_model(config: ModelConfig, weights: Mapping[str, Tensor], where: str) -> GPT:
    """A model of these tensors, which it keeps.

    UserError names the first tensor that is missing, unknown or of another shape, or the class of
    a variant that is not imported.
    """
    made, numbers = model_class(config.kind, where), sum(one.numel() for one in weights.values())
    # Without this, 20,000 layers that a few bytes name would be built before they are refused.
    if config.layers > len(weights) or config.parameters() > 2 * numbers:
        raise UserError(
            f"{where}: found {counted(len(weights), 'tensor')} of {number(numbers)} numbers, but"
            f" the model's shape has {counted(config.layers, 'layer')} and"
            f" {number(config.parameters())} parameters; create or download it again"
        )
    with torch.device("meta"):
        model = made(config)
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


def check_vocabulary(config: ModelConfig, vocabulary: Vocabulary, where: str) -> None:
    """UserError when a model's rows are not those of the vocabulary."""
    if config.vocabulary != vocabulary.size:
        raise UserError(
            f"{where}: the model has {config.vocabulary} vocabulary rows,"
            f" {vocabulary.file_names[0]} has {vocabulary.size} tokens; this is another model's"
            " vocabulary: use the one saved with the weights"
        )


def check_transformer(model: GPT, form: str) -> None:
    """UserError for the LSTM and for variants, which the published `form` has no place for."""
    if (kind := model.config.kind) != "gpt":
        raise UserError(
            f"{form}: the model is {'an LSTM' if kind == 'lstm' else kind}, but this format holds"
            " only the Transformer of the paper; export a model of `model: gpt`"
        )


def _said(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else f"shape {list(shape)}"


def model_config(values: Any, where: str) -> ModelConfig:
    """The shape that a JSON object describes; UserError where it has no such keys or values."""
    defaults = ModelConfig()
    kinds = {one.name: type(getattr(defaults, one.name)) for one in fields(ModelConfig)}
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected an object with a model's shape; download it again")
    for name, value in values.items():
        kind = kinds.get(name, type(value))
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(
                f"{where}: {name} is {value!r:.40}, expected {kind.__name__}; download it again"
            )
    try:
        return ModelConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def read_tensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file.

    UserError where it is missing, damaged or of another format.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
            return handle.metadata() or {}, tensors
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{file}: not a complete safetensors file ({error}); create or download it again"
        ) from error
