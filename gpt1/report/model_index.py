"""The metadata at the top of a model card: license, language, and the measured scores in the
hub's schema (`model-index`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpt1.corpus.hub import SCHEME, parse_hub
from gpt1.report.paper_tables import MAIN
from gpt1.tasks.registry import TASKS

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from gpt1.tasks.model import FineTuned

METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
"""The hub's names of metrics where ours differ."""
CHOICE, CLASSIFICATION, GENERATION = "multiple-choice", "text-classification", "text-generation"


@dataclass(frozen=True)
class Publication:
    """What no record has: the model's name, the language of its text, and the license; empty
    where none was chosen.
    """

    name: str = "gpt1"
    language: str = "en"
    license: str = ""


UNPUBLISHED = Publication()


def metadata(
    publication: Publication, origin: str, tuned: FineTuned | None, perplexity: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]], zero_shot: Sequence[Mapping[str, Any]],
) -> str:
    """The block as YAML.

    `origin`: where the books came from; data sets are named only where they are of the hub.
    """
    from huggingface_hub import ModelCardData

    books = [
        parse_hub(one).repository
        for one in origin.split(", ")
        if one.startswith(f"{SCHEME}datasets/")
    ]
    results = [
        *_held_out(perplexity, books),
        *(one for row in tasks if row["variant_setting"] == MAIN or tuned for one in _task(row)),
        *(one for row in zero_shot for one in _task(row, "zero-shot")),
    ]
    data = ModelCardData(
        language=publication.language, license=publication.license or None,
        library_name="transformers", pipeline_tag=_kind(tuned.task.kind) if tuned else GENERATION,
        tags=["gpt-1", *([tuned.task.name] if tuned else [])], datasets=books or None,
        model_name=publication.name if results else None, eval_results=results or None,
    )
    return data.to_yaml()


def _held_out(perplexity: Mapping[str, Any], books: Sequence[str]) -> Iterator[EvalResult]:
    from huggingface_hub import EvalResult

    for key, metric, name in (
        ("model", "perplexity", "Perplexity"),
        ("bits_per_byte", "bits_per_byte", "Bits per byte"),
    ):
        if key in perplexity:
            yield EvalResult(
                task_type=GENERATION, task_name="Language modeling",
                dataset_type=books[0] if len(books) == 1 else "books",
                dataset_name="Held-out text of the training corpus", dataset_split="held_out",
                metric_type=metric, metric_name=name, metric_value=perplexity[key],
            )  # fmt: skip


def _task(row: Mapping[str, Any], how: str = "") -> Iterator[EvalResult]:
    """The scores of a task, in per cent.

    `how` makes those without fine-tuning results of their own.
    """
    from huggingface_hub import EvalResult

    for split, values in (
        ("dev", row.get("medians") or {row["metric"]: row["score"]}),
        ("test", row.get("test") or {}),
    ):
        dataset, config, theirs = _dataset(row["task"], split)
        for metric, value in values.items():
            name, _, group = metric.partition("/")
            median = f"median of {row['runs']} seeds" if row.get("runs", 1) > 1 else ""
            notes = [note for note in ("%", group, how, row.get("variant"), median) if note]
            yield EvalResult(
                task_type=GENERATION if how else _kind(row["kind"]),
                task_name=(
                    "Language modeling, zero-shot" if how else row["kind"] or "classification"
                ),
                dataset_type=dataset,
                dataset_name=row["title"] + (" (a sample)" if row["sample"] else ""),
                dataset_config=config,
                dataset_split=theirs,
                metric_type=METRICS.get(name, name),
                metric_name=f"{name} ({', '.join(notes)})",
                metric_value=value,
            )


def _dataset(task: str, split: str) -> tuple[str, str | None, str]:
    """The hub's data set, configuration and split; ours where the hub has no copy."""
    hub = TASKS[task].hub if task in TASKS else None
    if hub is None or split not in hub.files:
        return task, None, split
    configs, splits = ({part[place]: None for part in hub.parts(split)} for place in (0, 1))
    return hub.repo, next(iter(configs)) if len(configs) == 1 else None, "+".join(splits)


def _kind(kind: str) -> str:
    return CHOICE if kind == "choice" else CLASSIFICATION
