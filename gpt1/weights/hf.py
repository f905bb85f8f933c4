"""The layout of `transformers`, out and in. Only files are written and read; transformers is not
needed, nothing is unpickled, and no code of a folder's runs.

A language model becomes OpenAIGPTLMHeadModel. A fine-tuned one becomes the class that fits its head
best: multiple choice OpenAIGPTDoubleHeadsModel, exactly; generation OpenAIGPTLMHeadModel, as it has
no head; the others OpenAIGPTForSequenceClassification, whose linear layer has no bias, so ours is
in config.json (`head_bias`) and must be added to the logits. head.json and head.safetensors are the
complete head.

transformers' own tokenizer for this model gives other ids without a warning. So the folder brings
tokenization_gpt1.py, and names the tokenizer's class and the vocabulary's files so that
AutoTokenizer raises where it may not run that file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LN_EPS
from gpt1.paths import leads_out
from gpt1.tasks.model import FineTuned, TaskHead, save_head
from gpt1.tokenizer.vocabulary import UNKNOWN, UNKNOWN_TOKEN, Vocabulary
from gpt1.weights import (
    CHECKPOINT_FILES,
    CONFIG_FILE,
    HF_VOCABULARY,
    INDEX_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
)
from gpt1.weights.store import (
    as_fp32,
    build_model,
    check_transformer,
    model_config,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)

HF_TYPE = "openai-gpt"
TRANSPOSED = (  # theirs are (in, out), ours (out, in)
    "c_attn.weight", "c_proj.weight", "c_fc.weight",
)  # fmt: skip
LANGUAGE_MODEL = "OpenAIGPTLMHeadModel"
CLASSES = {"choice": "OpenAIGPTDoubleHeadsModel", "generation": LANGUAGE_MODEL}
CLASSIFIER = "OpenAIGPTForSequenceClassification"
TOKENIZER = Path(__file__).with_name("tokenization_gpt1.py")
# As in its `vocab_files_names`. `Vocabulary.load` finds these, transformers' own tokenizers do not.
TOKENIZER_FILES = ("encoder_bpe_gpt1.json", "vocab_gpt1.bpe")
_SPECIAL = ("bos_token", "eos_token", "pad_token")
SPECIAL_IDS = {f"{name}_id": UNKNOWN for name in _SPECIAL}
_FIXED = {"layer_norm_epsilon": LN_EPS, "afn": "gelu"}  # theirs for this model is the tanh form
_PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
# The causal mask and 0, 1, 2, …, which old files hold as tensors.
_BUFFERS = re.compile(r"h\.\d+\.attn\.bias|position_ids")
_HEADS = ("score.", "multiple_choice_head.")


# Out


def export(
    folder: Path, model: GPT, vocabulary: Vocabulary, card: str, tuned: FineTuned | None = None
) -> list[Path]:
    """Write the weights, the configs, the tokenizer with its vocabulary, and README.md.

    Returns the files, in a fixed order; their bytes depend on the arguments alone. UserError for
    the LSTM.
    """
    check_transformer(model, "export hf")
    folder.mkdir(parents=True, exist_ok=True)
    configs = {
        CONFIG_FILE: hf_config(model.config) | (head_config(tuned) if tuned else {}),
        "tokenizer_config.json": tokenizer_config(model.config.context),
    }
    if tuned is None:
        sampling = {"do_sample": True, "temperature": 0.8, "top_k": 40}
        configs["generation_config.json"] = sampling | SPECIAL_IDS
    for name, values in configs.items():
        write_json(folder / name, values)
    contents = (
        card.encode(), TOKENIZER.read_bytes(), vocabulary.encoder_bytes(), vocabulary.merges_bytes()
    )  # fmt: skip
    others = dict(zip(("README.md", TOKENIZER.name, *TOKENIZER_FILES), contents, strict=True))
    for name, content in others.items():
        (folder / name).write_bytes(content)
    weights = hf_weights(model) | (head_weights(tuned.model.head) if tuned else {})
    write_tensors(folder / MODEL_FILE, weights, {"format": "pt"})
    files = [folder / name for name in (*configs, *others, MODEL_FILE)]
    return sorted([*files, *(save_head(folder, tuned) if tuned else [])])


def hf_class(tuned: FineTuned | None) -> str:
    """The class of transformers that loads the export."""
    return LANGUAGE_MODEL if tuned is None else CLASSES.get(tuned.task.kind, CLASSIFIER)


def hf_weights(model: GPT) -> dict[str, Tensor]:
    """The weights under transformers' names and in its layout, fp32.

    The softmax is tied, so `lm_head` is not among them.
    """
    return {f"transformer.{name}": _other_way(name, as_fp32(tensor))
            for name, tensor in model.state_dict().items()}


def _other_way(name: str, tensor: Tensor) -> Tensor:
    """From our layout to theirs, or back."""
    is_linear = name.endswith(TRANSPOSED) and tensor.dim() == 2
    return (tensor.t() if is_linear else tensor).contiguous()


def head_weights(head: TaskHead) -> dict[str, Tensor]:
    """The head's linear layer under transformers' names, as far as its class has a place."""
    if head.kind == "generation":
        return {}
    weight, bias = as_fp32(head.linear.weight), as_fp32(head.linear.bias)
    if head.kind == "choice":
        summary = "multiple_choice_head.summary"
        return {f"{summary}.weight": weight, f"{summary}.bias": bias}
    return {"score.weight": weight}


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """The contents of transformers' config.json for the language model.

    transformers' embedding dropout always acts on the activation; `embedding_dropout` is a key of
    ours, there only when it differs.
    """
    extra = {"embedding_dropout": config.embedding_dropout}
    return {
        "architectures": [hf_class(None)], "model_type": HF_TYPE, "dtype": "float32",
        "attn_pdrop": config.dropout, "embd_pdrop": config.dropout, "resid_pdrop": config.dropout,
        "initializer_range": config.init_std, "n_embd": config.width, "n_head": config.heads,
        "n_layer": config.layers, "n_positions": config.context, "tie_word_embeddings": True,
        "vocab_size": config.rows, **SPECIAL_IDS, **_FIXED,
        **(extra if config.embedding_dropout != "activation" else {}),
    }  # fmt: skip


def head_config(tuned: FineTuned) -> dict[str, Any]:
    """What config.json says of a task head."""
    found: dict[str, Any] = {"architectures": [hf_class(tuned)]}
    if tuned.task.kind == "generation":
        return found
    if tuned.task.kind == "choice":
        return {
            **found, "summary_type": "cls_index", "summary_activation": None,
            "summary_first_dropout": 0.0,
        }
    outputs = tuned.model.head.linear.out_features
    labels = tuned.task.labels or tuple(map(str, range(outputs)))
    return {
        **found, "head_bias": tuned.model.head.linear.bias.tolist(),
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def tokenizer_config(context: int) -> dict[str, Any]:
    """The contents of tokenizer_config.json: our class, and `<unk>` for every special token."""
    return {
        "auto_map": {"AutoTokenizer": [f"{TOKENIZER.stem}.GPT1Tokenizer", None]},
        "clean_up_tokenization_spaces": False, "model_max_length": context,
        "split_special_tokens": True, "tokenizer_class": "GPT1Tokenizer",
        "unk_token": UNKNOWN_TOKEN, **dict.fromkeys(_SPECIAL, UNKNOWN_TOKEN),
    }


# In


def find_hf(name: str) -> Path:
    """The folder `name`, or the snapshot of the model `name` in the hub's local cache.

    Nothing is fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        patterns = list(CHECKPOINT_FILES)
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError) as error:
        raise UserError(
            f"{name}: neither a folder nor a model in the hub's local cache; give a folder with"
            f" {CONFIG_FILE} and {MODEL_FILE}, or fetch it first with `hf download {name}`"
        ) from error


def read_hf(folder: Path) -> tuple[GPT, Vocabulary, list[str]]:
    """The language model and vocabulary of a folder of transformers, in fp32 on the CPU, and the
    names of the tensors that were left out since they are a task's head.

    Rows beyond the vocabulary are taken for special tokens. UserError names what is missing,
    damaged or of another kind; a folder that has its weights only as a pickle is refused.
    """
    file = folder / CONFIG_FILE
    given = read_json(file, "the folder of a transformers model")
    kind = given.get("model_type") if isinstance(given, dict) else None
    if kind != HF_TYPE:
        raise UserError(
            f"{file}: model_type is {kind!r}, expected {HF_TYPE!r}; only GPT-1 models can be"
            " imported"
        )
    vocabulary = _vocabulary(folder)
    config = _model_config(file, given, vocabulary)
    tensors: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        tensors |= read_tensors(path)[1]
    tied = tensors.pop("lm_head.weight", None)
    heads = sorted(name for name in tensors if name.startswith(_HEADS))
    names = {full: full.removeprefix("transformer.") for full in tensors.keys() - heads}
    weights = {
        name: _other_way(name, as_fp32(tensors[full]))
        for full, name in names.items()
        if not _BUFFERS.fullmatch(name)
    }
    rows = weights.get("tokens_embed.weight")
    if tied is not None and (rows is None or not torch.equal(as_fp32(tied), rows)):
        raise UserError(
            f"{folder / MODEL_FILE}: lm_head.weight differs from the token rows; GPT-1's softmax is"
            " tied to them, so this is another model"
        )
    return build_model(config, weights, str(folder / MODEL_FILE)), vocabulary, heads


def _vocabulary(folder: Path) -> Vocabulary:
    """Of the two files under their published names or those of transformers, else of
    tokenizer.json.
    """
    pair = all((folder / name).is_file() for name in HF_VOCABULARY)
    if (folder / TOKENIZER_FILE).is_file() and not pair and not [*folder.glob("encoder_bpe_*")]:
        return Vocabulary.from_tokenizer(folder / TOKENIZER_FILE)
    return Vocabulary.load(folder)


def _model_config(path: Path, given: Mapping[str, Any], vocabulary: Vocabulary) -> ModelConfig:
    for name, wanted in _FIXED.items():
        if given.get(name, wanted) != wanted:
            raise UserError(
                f"{path}: {name} is {given[name]!r}, expected {wanted!r}; this is not a GPT-1"
            )
    drops = [given.get(name, 0.1) for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop")]
    if any(drop != drops[0] for drop in drops):
        raise UserError(
            f"{path}: attn_pdrop, embd_pdrop and resid_pdrop are {drops}; GPT-1 has a single"
            " dropout rate: make them equal"
        )
    rows = given.get("vocab_size", 40_478)
    if type(rows) is not int or rows < vocabulary.size:
        raise UserError(
            f"{path}: vocab_size is {rows}, the vocabulary next to it has {vocabulary.size} tokens;"
            " another model's vocabulary: use the one saved with the weights"
        )
    shape = {"context": "n_positions", "width": "n_embd", "layers": "n_layer", "heads": "n_head",
             "init_std": "initializer_range", "embedding_dropout": "embedding_dropout"}  # fmt: skip
    ours = {name: given[theirs] for name, theirs in shape.items() if theirs in given}
    ours |= {"vocabulary": vocabulary.size, "special_tokens": rows - vocabulary.size}
    return model_config({**ours, "dropout": drops[0]}, str(path))


def _weight_files(folder: Path) -> list[Path]:
    """One file, or those that the index of sharded weights names.

    UserError where there are none, or one is missing.
    """
    path, index = folder / MODEL_FILE, folder / INDEX_FILE
    if path.is_file():
        return [path]
    if not index.is_file():
        pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickles:
            raise UserError(
                f"{folder}: the only weights are {pickles[0]}, a pickle, which can run code and is"
                f" not read; use the model's {MODEL_FILE}"
            )
        raise UserError(
            f"{path}: no such file; expected the model's weights, or {INDEX_FILE} with the files it"
            " names"
        )
    content = read_json(index, "an index of sharded weights")
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise UserError(f"{index}: no `weight_map`, which names the parts; download it again")
    names = list(files.values())
    for name in names:
        if leads_out(name) or "/" in name or not name.endswith(".safetensors"):
            raise UserError(
                f"{index}: names the file {name!r}; expected safetensors files in the same folder"
            )
        if not (folder / name).is_file():
            raise UserError(
                f"{folder / name}: no such file, and {index.name} names it; download the missing"
                " part"
            )
    return [folder / name for name in sorted(set(names))]
