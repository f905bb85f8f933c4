"""OpenAI's form of 2018: ten flat .npy files, split by params_shapes.json, with the vocabulary's
two files (docs/explanation/weights.md).

Positions come first, then tokens, then twelve arrays a block. Linear weights are [1, in, out]; ours
are (out, in). The files hold no number of heads and no dropout: a folder we write has our
config.json too; without one the published constants hold (heads of 64, dropout 0.1).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.weights import CONFIG_FILE
from gpt1.weights.store import (
    as_fp32,
    build_model,
    check_transformer,
    check_vocabulary,
    model_config,
    read_json,
    write_json,
)

FILES = 10
SHAPES_FILE = "params_shapes.json"
HEAD_WIDTH = 64
BLOCK = (
    "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
    "ln_1.weight", "ln_1.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight",
    "mlp.c_proj.bias", "ln_2.weight", "ln_2.bias",
)  # fmt: skip
"""The arrays of a block in the published order, under our names."""


def array_names(layers: int) -> list[str]:
    """Our parameter names in the published order: 2 + 12 a layer, 146 for twelve layers."""
    return [
        "positions_embed.weight", "tokens_embed.weight",
        *(f"h.{n}.{name}" for n in range(layers) for name in BLOCK),
    ]


def array_shapes(config: ModelConfig) -> list[list[int]]:
    """What params_shapes.json says of a model of this shape."""
    C = config.width
    block = [
        [1, C, 3 * C], [3 * C], [1, C, C], [C], [C], [C], [1, C, 4 * C], [4 * C], [1, 4 * C, C],
        [C], [C], [C],
    ]
    return [[config.context, C], [config.vocabulary, C], *(block * config.layers)]


def read_openai(folder: Path) -> tuple[GPT, Vocabulary]:
    """The model and vocabulary of a folder in OpenAI's form, in fp32 on the CPU.

    Raises UserError, naming file and array: a missing or truncated file, a missing array, a wrong
    shape, numbers left over, a vocabulary of another size. Nothing is unpickled.
    """
    file = folder / SHAPES_FILE
    shapes = read_json(file, f"it next to params_0.npy … params_{FILES - 1}.npy")
    if not isinstance(shapes, list) or not all(map(_is_shape, shapes)):
        raise UserError(
            f"{file}: expected a list of shapes (lists of positive integers); download it again"
        )
    config = _config(folder, shapes)
    vocabulary = Vocabulary.load(folder)
    check_vocabulary(config, vocabulary, str(folder))
    flat = _read_numbers(folder, sum(math.prod(shape) for shape in shapes))
    weights: dict[str, Tensor] = {}
    at = 0
    for name, shape in zip(array_names(config.layers), shapes, strict=True):
        size = math.prod(shape)
        weights[name] = _ours(torch.from_numpy(flat[at : at + size]).reshape(shape))
        at += size
    return build_model(config, weights, str(folder)), vocabulary


def write_openai(folder: Path, model: GPT, vocabulary: Vocabulary) -> list[Path]:
    """Write the ten .npy files, params_shapes.json, the vocabulary and our config.json; returns the
    files, by name.

    The numbers are cut in ten parts as equal as they can be. UserError for a model with special
    tokens: the form has no place for them.
    """
    check_transformer(model, "export openai")
    config = model.config
    if config.special_tokens:
        raise UserError(
            f"export openai: the model has {config.special_tokens} fine-tuning special tokens,"
            " which OpenAI's files cannot hold; export the pre-trained model, or use `gpt1 export"
            " hf`"
        )
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    arrays = [_theirs(name, state[name]).numpy().ravel() for name in array_names(config.layers)]
    parts = [folder / f"params_{number}.npy" for number in range(FILES)]
    for file, part in zip(parts, np.array_split(np.concatenate(arrays), FILES), strict=True):
        np.save(file, part, allow_pickle=False)
    (folder / SHAPES_FILE).write_text(json.dumps(array_shapes(config)), encoding="utf-8")
    write_json(folder / CONFIG_FILE, config.to_dict())
    return sorted([
        *parts, folder / SHAPES_FILE, folder / CONFIG_FILE, *vocabulary.save(folder)
    ])  # fmt: skip


def _ours(array: Tensor) -> Tensor:
    """[1, in, out] -> (out, in); everything else as it is."""
    return array[0].t().contiguous() if array.dim() == 3 else array.clone()


def _theirs(name: str, tensor: Tensor) -> Tensor:
    is_linear = tensor.dim() == 2 and "_embed" not in name
    return as_fp32(tensor.t() if is_linear else tensor)


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and bool(shape) and all(type(n) is int and n > 0 for n in shape)


def _config(folder: Path, shapes: list[list[int]]) -> ModelConfig:
    """The shape of the model, which all arrays fit: our config.json where we wrote one, else the
    first two arrays and the published constants.
    """
    file, ours = folder / SHAPES_FILE, folder / CONFIG_FILE
    layers, left_over = divmod(len(shapes) - 2, len(BLOCK))
    if layers < 0 or left_over:
        raise UserError(
            f"{file}: {len(shapes)} arrays; expected 2 + {len(BLOCK)} per layer (146 for the"
            " published model), so an array is missing or extra; download it again"
        )
    if any(len(shape) != 2 for shape in shapes[:2]):
        raise UserError(
            f"{file}: the first two arrays are {shapes[:2]}, expected positions and tokens, two"
            " sizes each"
        )
    (context, width), (vocabulary, _) = shapes[:2]
    if ours.is_file():
        config = model_config(read_json(ours, "a model's config"), str(ours))
    elif width % HEAD_WIDTH:
        raise UserError(
            f"{file}: width {width} is not a multiple of {HEAD_WIDTH}, the published head size,"
            f" and no {CONFIG_FILE} gives the number of heads; add one as `gpt1 export openai`"
            " writes it"
        )
    else:
        config = model_config(
            {"vocabulary": vocabulary, "context": context, "width": width, "layers": layers,
             "heads": width // HEAD_WIDTH}, str(file),
        )  # fmt: skip
    if config.layers != layers:
        raise UserError(
            f"{file}: {len(shapes)} arrays, which is {layers} layers, but {CONFIG_FILE} next to it"
            f" has {config.layers}; download both files again"
        )
    expected = zip(array_names(layers), shapes, array_shapes(config), strict=True)
    for number, (name, found, wanted) in enumerate(expected):
        if found != wanted:
            raise UserError(
                f"{file}: array {number} ({name}) has shape {found}, expected {wanted}; download it"
                " again"
            )
    return config


def _read_numbers(folder: Path, expected: int) -> np.ndarray:
    parts = [_read_part(folder / f"params_{number}.npy") for number in range(FILES)]
    found = sum(len(part) for part in parts)
    if found != expected:
        sizes = ", ".join(f"{len(part):,}" for part in parts)
        raise UserError(
            f"{folder}: params_0.npy … params_9.npy hold {found:,} numbers ({sizes}), {SHAPES_FILE}"
            f" expects {expected:,}; one of them is incomplete or from another model: download all"
            " eleven files again"
        )
    return np.concatenate(parts)


def _read_part(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"{path}: no such file; the folder must hold params_0.npy … params_9.npy")
    try:
        # Mapped, so that no more is allocated than the file has, whatever its header says.
        part = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OverflowError, EOFError, OSError) as error:
        raise UserError(
            f"{path}: not a complete .npy file of numbers ({str(error).splitlines()[0]}); download"
            " it again"
        ) from error
    if not isinstance(part, np.ndarray) or part.dtype != np.float32 or part.ndim != 1:
        what = (
            f"{part.dtype} of shape {part.shape}" if isinstance(part, np.ndarray) else "an archive"
        )
        raise UserError(
            f"{path}: holds {what}, expected float32 in one dimension; download it again"
        )
    return part
