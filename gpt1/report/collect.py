"""All facts of the report in one plain dictionary, which is also written as results.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gpt1.format import counted, number
from gpt1.report.corpus import corpus_facts
from gpt1.report.paper_gap import distance_facts
from gpt1.report.paper_tables import table_facts
from gpt1.report.pretraining import pretraining_facts
from gpt1.report.provenance import provenance_facts
from gpt1.report.sources import Source
from gpt1.report.tasks import CLEAR, clearly_better, finetune_facts, transfer_facts, zero_shot_facts


def gather(sources: Sequence[Source]) -> dict[str, Any]:
    """The facts; a part of the workflow that is missing leaves empty lists or None, never a
    made-up figure.
    """
    tasks = finetune_facts(sources)
    facts: dict[str, Any] = {
        "pretraining": pretraining_facts(sources), "tasks": tasks, "tables": table_facts(tasks),
        "transfer": transfer_facts(sources), "zero_shot": zero_shot_facts(sources),
        "corpus": corpus_facts(sources), "provenance": provenance_facts(sources),
    }
    return {"verdict": verdict(facts), "distance": distance_facts(facts), **facts}


def verdict(facts: Mapping[str, Any]) -> list[str]:
    """Did it learn: one sentence for each pre-training cell, one for the tasks."""
    pretraining = facts["pretraining"]
    several = len(pretraining["cells"]) > 1
    sentences = [
        _learned(cell, pretraining, several)
        for cell in pretraining["cells"]
        if cell["held_out_perplexity"]
    ]
    tasks = facts["tasks"]
    if tasks:
        better, what = len(clearly_better(tasks)), "task beats" if len(tasks) == 1 else "tasks beat"
        sentences.append(
            f"{better} of {len(tasks)} {what} the majority or chance baseline by {CLEAR:g} standard"
            " errors or more."
        )
    return sentences


def _learned(cell: Mapping[str, Any], pretraining: Mapping[str, Any], several: bool) -> str:
    name = f"{cell['cell']}: " if several else ""
    text = (
        f"{name}held-out perplexity {number(cell['held_out_perplexity'])} after"
        f" {counted(cell['updates'], 'step')}"
    )
    if cell["share_of_unigram"]:
        text += (
            f", {100 * cell['share_of_unigram']:.0f} % of the unigram model's"
            f" {number(pretraining['unigram_perplexity'])}"
        )
    if cell["share_of_bigram"]:
        word = "below" if cell["share_of_bigram"] < 1 else "not below"
        text += f" and {word} the bigram model's {number(pretraining['bigram_perplexity'])}"
    return text[0].upper() + text[1:] + "."


def to_json(facts: Mapping[str, Any]) -> str:
    """The same text for the same facts; what is no finite number becomes null."""
    return json.dumps(_finite(facts), ensure_ascii=False, indent=1) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
