"""README.md of an exported folder: how to load it, what it was made from, how well it does, what it
is for.

The first block is metadata that the Hugging Face hub reads. Every figure comes from the stages'
records; what they do not have is left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.corpus.hub import SCHEME, parse_hub
from gpt1.errors import UserError
from gpt1.report.collect import BITS_PER_BYTE, PERPLEXITY, collect
from gpt1.report.render import environment
from gpt1.report.sources import Source, only
from gpt1.report.tables import MAIN
from gpt1.tasks.registry import TASKS, Task

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from gpt1.model.config import ModelConfig
    from gpt1.tasks.model import FineTuned
    from gpt1.tokenizer.vocabulary import Vocabulary

LICENSES = Path(__file__).with_name("licenses.txt").read_text(encoding="utf-8").split()
"""Of https://huggingface.co/docs/hub/repositories-licenses, which `hf upload` checks too."""
METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
"""The hub's names of metrics where ours differ."""
CHOICE, CLASSIFICATION, GENERATION = "multiple-choice", "text-classification", "text-generation"
EXAMPLES = {
    "choice": "choice", "similarity": "pair", "entailment": "entailment", "generation": "target",
}  # fmt: skip
"""The example that shows how a kind of task is used; `classify` for the others."""


@dataclass(frozen=True)
class Publication:
    """What no record has: the model's name, the language of its text, and the license; empty
    where none was chosen.
    """

    name: str = "gpt1"
    language: str = "en"
    license: str = ""


UNPUBLISHED = Publication()


def check_license(name: str) -> str:
    """`name`; UserError when the hub knows no such license."""
    if name and name not in LICENSES:
        near = difflib.get_close_matches(name.lower(), LICENSES, 3)
        raise UserError(
            f"license {name!r}: the Hugging Face hub has no such identifier; expected one of its"
            f" list, such as {', '.join(near or ('apache-2.0', 'cc-by-4.0', 'other'))}. Use 'other'"
            " for any other license."
        )
    return name


def model_card(
    config: ModelConfig, vocabulary: Vocabulary, sources: Sequence[Source] = (),
    tuned: FineTuned | None = None, publication: Publication = UNPUBLISHED, *,
    snapshots: Sequence[int] = (), workflow: bool = False,
) -> str:
    """The card, from the jobs behind the model.

    Of a fine-tuned model the only finetune job among them is its own. `snapshots`: the steps that
    have a folder of their own in the export; `workflow`: it has a workflow.yaml.
    """
    report = collect(sources)
    own = only(sources, "finetune") if tuned else only(sources, "pretrain", "pretrained")
    task, row_of = tuned.task if tuned else None, {row["cell"]: row for row in report.cost["cells"]}
    perplexity = {} if tuned else _perplexities(own, only(sources, "shard"))
    start, delimiter, extract = (vocabulary.size + number for number in range(3))
    return environment().get_template("model_card.md.j2").render(
        metadata=_metadata(publication, report.origin, task, perplexity,
                           report.tasks, () if tuned else report.zero_shot),
        config=config, parameters=config.parameters(), license=publication.license, task=task,
        example=EXAMPLES.get(task.kind, "classify") if task else "generate", start=start,
        delimiter=delimiter, extract=extract, own=own, origin=report.origin, corpus=report.corpus,
        perplexity=perplexity, tasks=report.tasks, zero_shot=() if tuned else report.zero_shot,
        cost=report.cost, row=row_of.get(own.cell), speed=report.cost["speed"].get(own.cell),
        sources=sources, snapshots=snapshots, workflow=workflow,
        settings={k: value for k, value in own.settings.items() if value not in (None, "", [], {})},
    )  # fmt: skip


def _perplexities(own: Source, shard: Source) -> dict[str, Any]:
    """Held-out perplexity and bits per byte of the model, and the perplexity of n-gram models of
    the same text: those that are known, and nothing where the model's is not.
    """
    if own.fact(PERPLEXITY) is None:
        return {}
    names = {"model": PERPLEXITY, "bits_per_byte": BITS_PER_BYTE, "bigram": "bigram_perplexity",
             "unigram": "unigram_perplexity"}  # fmt: skip
    found = {key: own.summary.get(name, shard.fact(name)) for key, name in names.items()}
    return {key: value for key, value in found.items() if value is not None}


# The hub's metadata: license, language, and the scores (`model-index`)


def _metadata(
    publication: Publication, origin: str, task: Task | None, perplexity: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]], zero_shot: Sequence[Mapping[str, Any]],
) -> str:
    """The block as YAML.

    `origin`: where the books came from; data sets are named only where they are of the hub.
    """
    from huggingface_hub import ModelCardData

    addresses = [one for one in origin.split(", ") if one.startswith(f"{SCHEME}datasets/")]
    books = [parse_hub(one).repository for one in addresses]
    results = [
        *_held_out(perplexity, books),
        *(one for row in tasks if row["variant_setting"] == MAIN or task for one in _scores(row)),
        *(one for row in zero_shot for one in _scores(row, "zero-shot")),
    ]
    return ModelCardData(
        language=publication.language, license=publication.license or None,
        library_name="transformers", pipeline_tag=_kind(task.kind) if task else GENERATION,
        tags=["gpt-1", *([task.name] if task else [])], datasets=books or None,
        model_name=publication.name if results else None, eval_results=results or None,
    ).to_yaml()  # fmt: skip


def _held_out(perplexity: Mapping[str, Any], books: Sequence[str]) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    names = (("model", "perplexity"), ("bits_per_byte", "bits_per_byte"))
    for key, metric in names:
        if key in perplexity:
            yield EvalResult(
                task_type=GENERATION, task_name="Language modeling",
                dataset_type=books[0] if len(books) == 1 else "books",
                dataset_name="Held-out text of the training corpus", dataset_split="held_out",
                metric_type=metric, metric_name=metric.replace("_", " ").capitalize(),
                metric_value=perplexity[key],
            )  # fmt: skip


def _scores(row: Mapping[str, Any], how: str = "") -> Iterator[EvalResult]:
    """The scores of a task, in per cent.

    `how` makes those without fine-tuning results of their own.
    """
    from huggingface_hub import EvalResult

    median = f"median of {row['runs']} seeds" if row.get("runs", 1) > 1 else ""
    dev = row.get("medians") or {row["metric"]: row["score"]}
    for split, values in (("dev", dev), ("test", row.get("test") or {})):
        dataset, config, theirs = _dataset(row["task"], split)
        for metric, value in values.items():
            name, _, group = metric.partition("/")
            notes = ", ".join(filter(None, ("%", group, how, row.get("variant"), median)))
            yield EvalResult(
                task_type=GENERATION if how else _kind(row["kind"]),
                task_name=f"Language modeling, {how}" if how else row["kind"] or "classification",
                dataset_type=dataset, dataset_config=config, dataset_split=theirs,
                dataset_name=row["title"] + (" (a sample)" if row["sample"] else ""),
                metric_type=METRICS.get(name, name), metric_name=f"{name} ({notes})",
                metric_value=value,
            )  # fmt: skip


def _dataset(task: str, split: str) -> tuple[str, str | None, str]:
    """The hub's data set, configuration and split; ours where the hub has no copy."""
    hub = TASKS[task].hub if task in TASKS else None
    if hub is None or split not in hub.files:
        return task, None, split
    configs, splits = ({part[place]: None for part in hub.parts(split)} for place in (0, 1))
    return hub.repo, next(iter(configs)) if len(configs) == 1 else None, "+".join(splits)


def _kind(kind: str) -> str:
    return {"choice": CHOICE, "generation": GENERATION}.get(kind, CLASSIFICATION)
