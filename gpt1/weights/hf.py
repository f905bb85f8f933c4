"""Export to a folder that `transformers` loads. Only files are written; transformers is not needed.

A language model becomes OpenAIGPTLMHeadModel. A fine-tuned one becomes the class that fits its head
best: multiple choice OpenAIGPTDoubleHeadsModel, exactly; the others
OpenAIGPTForSequenceClassification, whose linear layer has no bias, so that ours stands in
config.json (`head_bias`) and must be added to the logits. head.json and head.safetensors beside
them are the whole head.

transformers' own tokenizer for this model gives other ids without a warning. So the folder brings
tokenization_gpt1.py, and names the tokenizer's class and the vocabulary's files so that
AutoTokenizer raises where it may not run that file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LN_EPS
from gpt1.tasks.model import FineTuned, TaskHead, save_head
from gpt1.tokenizer.vocabulary import UNKNOWN, UNKNOWN_TOKEN, Vocabulary
from gpt1.weights.hf_import import HF_TYPE, TRANSPOSED
from gpt1.weights.store import CONFIG_FILE, MODEL_FILE, check_transformer, write_tensors

CLASSES = {"choice": "OpenAIGPTDoubleHeadsModel"}
CLASSIFIER = "OpenAIGPTForSequenceClassification"
TOKENIZER = Path(__file__).with_name("tokenization_gpt1.py")
# As in its `vocab_files_names`. `Vocabulary.load` finds these, transformers' own tokenizers do not.
TOKENIZER_FILES = ("encoder_bpe_gpt1.json", "vocab_gpt1.bpe")
_SPECIAL = ("bos_token", "eos_token", "pad_token")
SPECIAL_IDS = {f"{name}_id": UNKNOWN for name in _SPECIAL}


def hf_class(tuned: FineTuned | None) -> str:
    """The class of transformers that loads the export."""
    return "OpenAIGPTLMHeadModel" if tuned is None else CLASSES.get(tuned.task.kind, CLASSIFIER)


def hf_weights(model: GPT) -> dict[str, Tensor]:
    """The weights under transformers' names and in its layout, fp32.

    The softmax is tied, so `lm_head` is not among them.
    """
    weights = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().to("cpu", torch.float32)
        weights[f"transformer.{name}"] = (
            tensor.t() if name.endswith(TRANSPOSED) else tensor
        ).contiguous()
    return weights


def head_weights(head: TaskHead) -> dict[str, Tensor]:
    """The head's linear layer under transformers' names, as far as its class has a place."""
    weight, bias = (
        tensor.detach().to("cpu", torch.float32).contiguous()
        for tensor in (head.linear.weight, head.linear.bias)
    )
    if head.kind == "choice":
        return {
            "multiple_choice_head.summary.weight": weight,
            "multiple_choice_head.summary.bias": bias,
        }
    return {"score.weight": weight}


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """The contents of transformers' config.json for the language model.

    transformers' embedding dropout always acts on the activation; `embedding_dropout` is a key of
    ours, there only when it differs.
    """
    extra = (
        {}
        if config.embedding_dropout == "activation"
        else {"embedding_dropout": config.embedding_dropout}
    )
    return {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "model_type": HF_TYPE,
        "afn": "gelu",  # their "gelu" for this model is the tanh form
        "attn_pdrop": config.dropout,
        "dtype": "float32",
        "embd_pdrop": config.dropout,
        "initializer_range": config.init_std,
        "layer_norm_epsilon": LN_EPS,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_layer": config.layers,
        "n_positions": config.context,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": True,
        "vocab_size": config.rows,
        **SPECIAL_IDS,
        **extra,
    }


def head_config(tuned: FineTuned) -> dict[str, Any]:
    """What config.json says of a task head."""
    found: dict[str, Any] = {"architectures": [hf_class(tuned)]}
    if tuned.task.kind == "choice":
        return {
            **found, "summary_type": "cls_index", "summary_activation": None,
            "summary_first_dropout": 0.0,
        }
    outputs = tuned.model.head.linear.out_features
    labels = (
        tuned.task.labels if tuned.task.labels else tuple(str(score) for score in range(outputs))
    )
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


def export(
    folder: Path, model: GPT, vocabulary: Vocabulary, card: str, tuned: FineTuned | None = None
) -> list[Path]:
    """Write the weights, the configs, the tokenizer with its vocabulary, and README.md.

    Returns the files, in a fixed order; their bytes depend on the arguments alone. UserError for
    the LSTM.
    """
    check_transformer(model, "export hf")
    folder.mkdir(parents=True, exist_ok=True)
    config = hf_config(model.config) | (head_config(tuned) if tuned else {})
    texts = {
        CONFIG_FILE: _json(config),
        "tokenizer_config.json": _json(tokenizer_config(model.config.context)), "README.md": card,
    }
    if tuned is None:
        sampling = {"do_sample": True, "temperature": 0.8, "top_k": 40}
        texts["generation_config.json"] = _json(sampling | SPECIAL_IDS)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    contents = TOKENIZER.read_bytes(), vocabulary.encoder_bytes(), vocabulary.merges_bytes()
    tokenizer = dict(zip((TOKENIZER.name, *TOKENIZER_FILES), contents, strict=True))
    for name, content in tokenizer.items():
        (folder / name).write_bytes(content)
    weights = hf_weights(model) | (head_weights(tuned.model.head) if tuned else {})
    write_tensors(folder / MODEL_FILE, weights, {"format": "pt"})
    files = [folder / name for name in (*texts, *tokenizer, MODEL_FILE)]
    return sorted([*files, *(save_head(folder, tuned) if tuned else [])])


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
