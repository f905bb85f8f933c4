"""Import of a model in the form of `transformers` (OpenAIGPTLMHeadModel): safetensors only, no
pickle, no code of the folder's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LN_EPS
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.weights.store import CONFIG_FILE, MODEL_FILE, build_model

HF_TYPE = "openai-gpt"
HF_VOCABULARY = ("vocab.json", "merges.txt")
TRANSPOSED = (
    "c_attn.weight", "c_proj.weight", "c_fc.weight",
)  # theirs are (in, out), ours (out, in)
PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
TOKENIZER_FILE = "tokenizer.json"
INDEX_FILE = f"{MODEL_FILE}.index.json"
CACHED = [
    CONFIG_FILE, MODEL_FILE, INDEX_FILE, "model-*.safetensors", *HF_VOCABULARY, TOKENIZER_FILE,
    "encoder_bpe_*.json", "vocab_*.bpe",
]  # fmt: skip
_BUFFERS = re.compile(
    r"h\.\d+\.attn\.bias|position_ids"
)  # the causal mask and 0, 1, 2, …, which old files hold as tensors
_HEADS = ("score.", "multiple_choice_head.")
_FIXED = {"layer_norm_epsilon": LN_EPS, "afn": "gelu"}


def find_hf(name: str) -> Path:
    """The folder `name`, or the snapshot of the model `name` in the hub's local cache.

    Nothing is fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=CACHED, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError) as error:
        raise UserError(
            f"{name}: neither a folder nor a model in the hub's local cache; give a folder with"
            f" {CONFIG_FILE} and {MODEL_FILE}, or fetch it first with `hf download {name}`"
        ) from error


def read_hf(folder: Path) -> tuple[GPT, Vocabulary]:
    """The language model and vocabulary of a folder of transformers, in fp32 on the CPU.

    Rows beyond the vocabulary are taken for special tokens. UserError names what is missing,
    damaged or of another kind; a folder that has its weights only as a pickle is refused.
    """
    given = _config_of(folder / CONFIG_FILE)
    vocabulary = _vocabulary(folder)
    config = _model_config(folder / CONFIG_FILE, given, vocabulary)
    tensors = _tensors(folder)
    weights = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("transformer.")
        if _BUFFERS.fullmatch(name) or full == "lm_head.weight" or full.startswith(_HEADS):
            continue
        weights[name] = (
            (tensor.t() if name.endswith(TRANSPOSED) and tensor.dim() == 2 else tensor)
            .to(torch.float32)
            .contiguous()
        )
    _check_tied(
        folder / MODEL_FILE, tensors.get("lm_head.weight"), weights.get("tokens_embed.weight")
    )
    return build_model(config, weights, str(folder / MODEL_FILE)), vocabulary


def _config_of(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; expected the folder of a transformers model"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); download it again") from error
    kind = found.get("model_type") if isinstance(found, dict) else None
    if kind != HF_TYPE:
        raise UserError(
            f"{path}: model_type is {kind!r}, expected {HF_TYPE!r}; only GPT-1 models can be"
            " imported"
        )
    return found


def _vocabulary(folder: Path) -> Vocabulary:
    """Under the published names or those of transformers, whose files are the same, or inside
    tokenizer.json.
    """
    if list(folder.glob("encoder_bpe_*.json")):
        return Vocabulary.load(folder)
    encoder, merges = (folder / name for name in HF_VOCABULARY)
    if encoder.is_file() and merges.is_file():
        return Vocabulary.read(encoder, merges)
    if (folder / TOKENIZER_FILE).is_file():
        return Vocabulary.from_tokenizer(folder / TOKENIZER_FILE)
    raise UserError(
        f"{folder}: no vocabulary; expected {encoder.name} with {merges.name}, {TOKENIZER_FILE}, or"
        " encoder_bpe_N.json with vocab_N.bpe"
    )


def _model_config(path: Path, given: Mapping[str, Any], vocabulary: Vocabulary) -> ModelConfig:
    for name, wanted in _FIXED.items():
        if given.get(name, wanted) != wanted:
            raise UserError(
                f"{path}: {name} is {given[name]!r}, expected {wanted!r}; this is not a GPT-1"
            )
    drops = {name: given.get(name, 0.1) for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop")}
    if len(set(drops.values())) > 1:
        raise UserError(f"{path}: {drops}; GPT-1 has a single dropout rate: make them equal")
    rows = given.get("vocab_size", 40_478)
    if type(rows) is not int or rows < vocabulary.size:
        raise UserError(
            f"{path}: vocab_size is {rows}, the vocabulary next to it has {vocabulary.size} tokens;"
            " another model's vocabulary: use the one saved with the weights"
        )
    try:
        return ModelConfig(
            vocabulary=vocabulary.size, context=given.get("n_positions", 512),
            width=given.get("n_embd", 768), layers=given.get("n_layer", 12),
            heads=given.get("n_head", 12), dropout=drops["resid_pdrop"],
            embedding_dropout=given.get("embedding_dropout", "activation"),
            special_tokens=rows - vocabulary.size, init_std=given.get("initializer_range", 0.02),
        )  # fmt: skip
    except TypeError as error:
        raise UserError(f"{path}: a size is not a number ({error}); download it again") from error


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as handle:
                found |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path}: not a complete safetensors file ({error}); download it again"
            ) from error
    return found


def dropped_heads(folder: Path) -> list[str]:
    """The tensors of a folder that `read_hf` leaves out since they are a task's head, by name."""
    names: list[str] = []
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as handle:
            names += [name for name in handle.keys() if name.startswith(_HEADS)]  # noqa: SIM118
    return sorted(names)


def _weight_files(folder: Path) -> list[Path]:
    """One file, or those that the index of sharded weights names.

    UserError where there are none, or one is missing.
    """
    path, index = folder / MODEL_FILE, folder / INDEX_FILE
    if path.is_file():
        return [path]
    if not index.is_file():
        pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        if pickles:
            raise UserError(
                f"{folder}: the only weights are {pickles[0]}, a pickle, which can run code and is"
                f" not read; use the model's {MODEL_FILE}"
            )
        raise UserError(
            f"{path}: no such file; expected the model's weights, or {INDEX_FILE} with the files it"
            " names"
        )
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{index}: not an index of sharded weights ({error!r}); download it again"
        ) from error
    for name in names:
        if (
            not isinstance(name, str)
            or Path(name).name != name
            or not name.endswith(".safetensors")
        ):
            raise UserError(
                f"{index}: names the file {name!r}; expected safetensors files in the same folder"
            )
        if not (folder / name).is_file():
            raise UserError(
                f"{folder / name}: no such file, and {index.name} names it; download the missing"
                " part"
            )
    return [folder / name for name in names]


def _check_tied(path: Path, head: Tensor | None, tokens: Tensor | None) -> None:
    if head is not None and (
        tokens is None
        or head.shape != tokens.shape
        or not torch.equal(head.to(torch.float32), tokens)
    ):
        raise UserError(
            f"{path}: lm_head.weight differs from the token rows; GPT-1's softmax is tied to them,"
            " so this is another model"
        )
