"""README.md of an exported folder: how to load it, what it was made from, how well it does, what it
is for, how it was made.

The first block is metadata that the Hugging Face hub reads. Every figure comes from the stages'
records; what they do not have is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.model.config import ModelConfig
from gpt1.report.corpus import corpus_facts
from gpt1.report.model_index import UNPUBLISHED, Publication, metadata
from gpt1.report.page import environment
from gpt1.report.pretraining import PERPLEXITY
from gpt1.report.run_cost import making_facts
from gpt1.report.sources import Source, only
from gpt1.report.tasks import finetune_facts, zero_shot_facts
from gpt1.tasks.predictor import FineTuned
from gpt1.tokenizer.vocabulary import Vocabulary

EXAMPLES = {"choice": "choice", "similarity": "pair", "entailment": "entailment"}
"""The example that shows how a kind of task is used; `classify` for the others."""

PRETRAINED = ("pretrain", "pretrained")


def model_card(
    config: ModelConfig, vocabulary: Vocabulary, sources: Sequence[Source] = (),
    tuned: FineTuned | None = None, publication: Publication = UNPUBLISHED,
) -> str:
    """The card, from the cells behind the model.

    Of a fine-tuned model the only finetune cell among them is its own.
    """
    own = (
        only(sources, "finetune")
        if tuned
        else next((one for one in sources if one.kind in PRETRAINED), Source("", ""))
    )
    making = making_facts(sources, "")
    tasks, zero_shot = finetune_facts(sources), [] if tuned else zero_shot_facts(sources)
    perplexity = {} if tuned else perplexities(own, only(sources, "shard"))
    start, delimiter, extract = (vocabulary.size + number for number in range(3))
    return environment().get_template("model_card.md.j2").render(
        metadata=metadata(
            publication, only(sources, "ingest").origin, tuned, perplexity, tasks, zero_shot
        ),
        config=config, parameters=config.parameters(), license=publication.license,
        task=tuned.task if tuned else None,
        example=(EXAMPLES.get(tuned.task.kind, "classify") if tuned else "generate"), start=start,
        delimiter=delimiter, extract=extract, own=own, origin=only(sources, "ingest").origin,
        corpus=corpus_facts(sources), perplexity=perplexity, tasks=tasks, zero_shot=zero_shot,
        making=making,
        row=next((cell for cell in making["cells"] if cell["cell"] == own.cell), None),
        sources=sources,
        settings={
            name: value for name, value in own.settings.items() if value not in (None, "", [], {})
        },
        speed=making["speed"].get(own.cell),
    )  # fmt: skip


def perplexities(own: Source, shard: Source) -> Mapping[str, Any]:
    """Held-out perplexity and bits per byte of the model, and the perplexity of n-gram models of
    the same text. Known ones only.
    """
    names = {"model": PERPLEXITY, "bits_per_byte": "validation_bits_per_byte"}
    names |= {name: f"{name}_perplexity" for name in ("bigram", "unigram")}
    found = {
        key: own.fact(name) if own.fact(name) is not None else shard.fact(name)
        for key, name in names.items()
    }
    return (
        {key: value for key, value in found.items() if value is not None}
        if own.fact(PERPLEXITY) is not None
        else {}
    )
