"""Export to a folder that `transformers` loads as OpenAIGPTLMHeadModel. Only files are written; transformers is not needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LN_EPS
from gpt1.text.vocabulary import Vocabulary

TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # theirs are (in, out), ours (out, in)


def hf_weights(model: GPT) -> dict[str, Tensor]:
    """The weights under transformers' names and in its layout, fp32. The softmax is tied, so `lm_head` is not among them."""
    weights = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().to("cpu", torch.float32)
        weights[f"transformer.{name}"] = (tensor.t() if name.endswith(TRANSPOSED) else tensor).contiguous()
    return weights


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """The contents of transformers' config.json. Its embedding dropout always acts on the activation."""
    return {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "model_type": "openai-gpt",
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
    }


def export(folder: Path, model: GPT, vocabulary: Vocabulary, card: str) -> list[Path]:
    """Write the weights, both configs, the vocabulary under transformers' names and the published ones, and README.md.

    Returns the files, in a fixed order; their bytes depend on the arguments alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    limit = model.config.context
    texts = {
        "config.json": _json(hf_config(model.config)),
        "generation_config.json": _json({"do_sample": True, "max_length": limit, "temperature": 0.8, "top_k": 40}),
        "tokenizer_config.json": _json({"tokenizer_class": "OpenAIGPTTokenizer", "unk_token": "<unk>", "model_max_length": limit}),
        "README.md": card,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    encoder_name, merges_name = vocabulary.file_names
    vocabulary.save(folder)
    (folder / "vocab.json").write_bytes(vocabulary.encoder_bytes())
    (folder / "merges.txt").write_bytes(vocabulary.merges_bytes())
    save_file(hf_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    names = ["model.safetensors", *texts, "vocab.json", "merges.txt", encoder_name, merges_name]
    return [folder / name for name in sorted(names)]


def model_card(config: ModelConfig, vocabulary: Vocabulary, facts: dict[str, Any]) -> str:
    """README.md of the exported folder. `facts` (name -> value) is shown as a table."""
    encoder_name, merges_name = vocabulary.file_names
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return CARD.format(
        layers=config.layers, width=config.width, heads=config.heads, context=config.context, rows=config.rows,
        parameters=config.parameters(), encoder=encoder_name, merges=merges_name, facts=rows,
    )  # fmt: skip


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


CARD = """---
library_name: transformers
pipeline_tag: text-generation
---
# GPT-1, trained from scratch

A post-LN Transformer decoder after Radford et al. (2018): {layers} layers, width {width}, {heads} heads, context {context},
{rows:,} token rows, {parameters:,} parameters.

| | |
|---|---|
{facts}

## Loading

```python
from transformers import OpenAIGPTLMHeadModel
model = OpenAIGPTLMHeadModel.from_pretrained("PATH_OF_THIS_FOLDER")
```

## Getting the right ids

Do not use the tokenizer classes of `transformers` for this model. It was trained on text that went through ftfy, OpenAI's
`standardise`, spaCy's English tokenizer and lower-casing before BPE. `OpenAIGPTTokenizer` does none of the first three (it splits
words as BERT does): contractions come apart at other places and line breaks are lost, so many texts get other ids, without a
warning. `{encoder}` and `{merges}` are the vocabulary in the form OpenAI published; with the `gpt1` package:

```python
from pathlib import Path
import torch
from gpt1.text.encoder import TextEncoder
from gpt1.text.vocabulary import Vocabulary

encoder = TextEncoder(Vocabulary.load(Path("PATH_OF_THIS_FOLDER")))
ids = encoder.encode("It wasn't the first time.")
out = model.generate(torch.tensor([ids]), max_new_tokens=40)
print(encoder.decode(out[0].tolist()))
```

`vocab.json` and `merges.txt` are the same two files under the names that `transformers` expects.
"""
