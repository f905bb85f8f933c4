"""README.md of an exported folder: what the model is, from what it was made, how well it does, how to load it, how to get ids."""

from __future__ import annotations

from collections.abc import Mapping

from gpt1.model.config import ModelConfig
from gpt1.tasks.finetuned import FineTuned
from gpt1.text.vocabulary import Vocabulary
from gpt1.weights.hf import TOKENIZER_FILES

Facts = dict[str, dict[str, str]]
"""Tables of the card: title (data, settings, scores, origin) -> name -> value. Empty ones are left out."""


def model_card(config: ModelConfig, vocabulary: Vocabulary, facts: Facts, tuned: FineTuned | None = None) -> str:
    """The card. Values are shown as they are given."""
    tables = "\n".join(_table(title, rows) for title, rows in facts.items() if rows)
    encoder, merges = TOKENIZER_FILES
    return CARD.format(
        tag="text-classification" if tuned else "text-generation",
        what=f", fine-tuned for {tuned.task.title}" if tuned else "",
        layers=config.layers, width=config.width, heads=config.heads, context=config.context, rows=config.rows,
        parameters=config.parameters(), tables=tables, encoder=encoder, merges=merges, use=_use(tuned, vocabulary),
    )  # fmt: skip


def _table(title: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines, ""])


def _use(tuned: FineTuned | None, vocabulary: Vocabulary) -> str:
    if tuned is None:
        return GENERATE
    start, delimiter, extract = (vocabulary.size + n for n in range(3))
    shown = {"start": start, "delimiter": delimiter, "extract": extract}
    return {"choice": CHOICE, "similarity": PAIR, "entailment": ENTAILMENT}.get(tuned.task.kind, CLASSIFY).format(**shown)


CARD = """---
library_name: transformers
pipeline_tag: {tag}
---
# GPT-1{what}

A post-LN Transformer decoder after Radford et al. (2018): {layers} layers, width {width}, {heads} heads, context {context},
{rows:,} token rows, {parameters:,} parameters in the language model.

{tables}
## Getting the right ids

```python
from transformers import AutoTokenizer

folder = "PATH_OF_THIS_FOLDER"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
```

`trust_remote_code=True` runs `tokenization_gpt1.py` of this folder, which needs ftfy and spaCy:
`pip install ftfy==6.3.1 spacy==3.8.18`. It does what was done to the training text: ftfy, OpenAI's
`standardize`, spaCy's English tokenizer, lower-casing, BPE. Without the flag it raises.
Do not call `OpenAIGPTTokenizer` yourself: it splits words as BERT does and does not find this
vocabulary, so it gives other ids without an error. In the package `gpt1`,
`TextEncoder(Vocabulary.load(Path(folder)))` gives the same ids as the tokenizer here.
`{encoder}` and `{merges}` are the vocabulary in the form that OpenAI published.

Pre-training has no special tokens. `<unk>` (id 0) is named as beginning, end and padding because
other programs ask for them. Padding goes to the right; to generate for several prompts at once set
`tokenizer.padding_side = "left"`, with transformers 5.23 (4.50 to 5.0 count padding as positions).

## Loading

{use}
The `gpt1` command reads this folder as it is: `gpt1 generate`, `gpt1 perplexity`, `gpt1 predict`, `gpt1 import hf`.
"""

GENERATE = """```python
from transformers import OpenAIGPTLMHeadModel

model = OpenAIGPTLMHeadModel.from_pretrained(folder).eval()
given = tokenizer("It wasn't the first time.", return_tensors="pt")
print(tokenizer.decode(model.generate(**given, max_new_tokens=40)[0]))
```
"""

_BIAS = """`transformers` has no bias in this class's linear layer; this model has one. It stands in config.json and must be added:

```python
import torch
from transformers import OpenAIGPTForSequenceClassification

model = OpenAIGPTForSequenceClassification.from_pretrained(folder).eval()
bias = torch.tensor(model.config.head_bias)
"""

CLASSIFY = (
    _BIAS
    + """ids = [{start}, *tokenizer.encode("The text."), {extract}]
logits = model(torch.tensor([ids])).logits + bias
print(model.config.id2label[int(logits.argmax())])
```
"""
)

ENTAILMENT = (
    _BIAS
    + """first, second = tokenizer.encode("The premise."), tokenizer.encode("The hypothesis.")
ids = [{start}, *first, {delimiter}, *second, {extract}]
logits = model(torch.tensor([ids])).logits + bias
print(model.config.id2label[int(logits.argmax())])
```
"""
)

PAIR = (
    _BIAS
    + """a, b = tokenizer.encode("One text."), tokenizer.encode("Another text.")
orders = [[{start}, *a, {delimiter}, *b, {extract}], [{start}, *b, {delimiter}, *a, {extract}]]
logits = model(torch.tensor(orders)).logits.sum(0) + bias  # both orders are added
print(logits.softmax(-1))
```
"""
)

CHOICE = """```python
import torch
from transformers import OpenAIGPTDoubleHeadsModel

model = OpenAIGPTDoubleHeadsModel.from_pretrained(folder).eval()
given, answers = tokenizer.encode("Document. Question?"), ["one answer", "another answer"]
rows = [[{start}, *given, {delimiter}, *tokenizer.encode(answer), {extract}] for answer in answers]
last = torch.tensor([[len(row) - 1 for row in rows]])
ids = torch.tensor([[row + [0] * (int(last.max()) + 1 - len(row)) for row in rows]])
print(answers[int(model(ids, mc_token_ids=last).mc_logits.argmax())])
```
"""
