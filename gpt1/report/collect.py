"""What a report says, in one place: the page, its Markdown twin and the model card read it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt1.format import counted, number
from gpt1.report.run_cost import run_cost
from gpt1.report.sources import Source, of_kind, only
from gpt1.report.tables import (
    CLEAR,
    MAIN,
    clearly_better,
    distance_from_paper,
    finetune_rows,
    paper_tables,
    transfer_rows,
    zero_shot_rows,
)
from gpt1.settings import field_marks
from gpt1.train.config import PretrainConfig

Share = Callable[[str], float]
"""How much of a text is copied (gpt1.report.copied)."""
METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
PERPLEXITY, BITS_PER_BYTE = "validation_perplexity", "validation_bits_per_byte"
_FIGURES = (
    ("ingest", "books", "books read"), ("ingest", "files", "files read"),
    ("ingest", "authors", "authors"), ("ingest", "words", "words read"),
    ("clean", "books", "books kept after cleaning"), ("clean", "words", "words after cleaning"),
    ("split", "train_books", "training books"), ("split", "held_out_books", "held-out books"),
    ("split", "duplicate_books", "copies skipped"),
    ("vocabulary", "vocabulary", "tokens in the vocabulary"),
    ("vocabulary", "merges", "merges learned"), ("shard", "train_tokens", "training tokens"),
    ("shard", "held_out_tokens", "held-out tokens"),
)


@dataclass(frozen=True)
class Collection:
    """The facts of all jobs behind a report, as plain values.

    A part of the workflow that is missing leaves empty lists or None, never a made-up figure.
    """

    sources: Sequence[Source]
    pretraining: Mapping[str, Any]
    """The n-gram models of the held-out shards, and a row (`cells`) for each pre-training job."""
    tasks: Sequence[Mapping[str, Any]]
    tables: Sequence[Mapping[str, Any]]
    transfer: Sequence[Mapping[str, Any]]
    zero_shot: Sequence[Mapping[str, Any]]
    corpus: Mapping[str, Any]
    """`figures`: stage, name, label and value; `rejected` and `rules`: counts by rule; `audit`:
    what the audit stage wrote, empty in a workflow without one.
    """
    distance: Mapping[str, Any]
    cost: Mapping[str, Any]
    """Of this run and this machine (gpt1.report.run_cost)."""

    @property
    def origin(self) -> str:
        """Where the books came from, in words."""
        return only(self.sources, "ingest").origin

    def figure(self, stage: str, name: str) -> Any:
        """One of the corpus figures; None where the workflow has none."""
        figures = {(row["stage"], row["name"]): row["value"] for row in self.corpus["figures"]}
        return figures.get((stage, name))

    def verdict(self) -> list[str]:
        """Did it learn: one sentence for each pre-training job, one for the tasks."""
        cells = [cell for cell in self.pretraining["cells"] if cell["held_out_perplexity"]]
        found = [self._learned(cell) for cell in cells]
        if rows := self.tasks:
            what = "task beats" if len(rows) == 1 else "tasks beat"
            copied = any(row["kind"] == "generation" for row in rows)
            baseline = "majority, chance or copying" if copied else "majority or chance"
            found.append(
                f"{len(clearly_better(rows))} of {len(rows)} {what} the {baseline} baseline"
                f" by {CLEAR:g} standard errors or more."
            )
        return found

    def _learned(self, cell: Mapping[str, Any]) -> str:
        several = len(self.pretraining["cells"]) > 1
        text = (
            f"{cell['cell'] + ': ' if several else ''}held-out perplexity"
            f" {number(cell['held_out_perplexity'])} after {counted(cell['updates'], 'step')}"
        )
        if cell["share_of_unigram"]:
            text += (
                f", {100 * cell['share_of_unigram']:.0f} % of the unigram model's"
                f" {number(self.pretraining['unigram_perplexity'])}"
            )
        if cell["share_of_bigram"]:
            word = "below" if cell["share_of_bigram"] < 1 else "not below"
            bigram = number(self.pretraining["bigram_perplexity"])
            text += f" and {word} the bigram model's {bigram}"
        return text[0].upper() + text[1:] + "."

    def headline(self) -> dict[str, Any]:
        """The handful of figures that two runs are compared by."""
        cells, found = self.pretraining["cells"], dict[str, Any]()
        for cell in cells:
            found[f"val/perplexity/{cell['cell']}"] = cell["held_out_perplexity"]
            found[f"val/bpb/{cell['cell']}"] = cell["bits_per_byte"]
        for name in ("unigram_perplexity", "bigram_perplexity"):
            found[name] = self.pretraining[name]
        found |= {"tasks": len(self.tasks), "tasks_above_baseline": len(clearly_better(self.tasks))}
        found |= {f"score/{row['task']}": row["score"] for row in self.tasks
                  if row["variant_setting"] == MAIN}
        return {name: value for name, value in found.items() if value is not None}

    def samples(self, points: int, copied: Share | None = None) -> dict[str, list[dict[str, Any]]]:
        """For each pre-training job `samples_of` it, where it has any."""
        jobs = of_kind(self.sources, "pretrain")
        return {job.cell: found for job in jobs if (found := samples_of(job, points, copied))}

    def results(self) -> dict[str, Any]:
        """What results.json has: all that follows from the records' content alone."""
        names = ("pretraining", "tasks", "tables", "transfer", "zero_shot", "corpus")
        return {
            "verdict": self.verdict(), "distance": self.distance,
            **{name: getattr(self, name) for name in names},
            "provenance": [
                {"stage": one.kind, "cell": one.cell, "fingerprint": one.fingerprint,
                 "digest": one.digest, "settings": dict(one.settings)}
                for one in self.sources
            ],
        }  # fmt: skip


def collect(sources: Sequence[Source], run: str = "") -> Collection:
    """The facts of the jobs in `sources`; `run` is the run of the workflow that collects them."""
    tasks, corpus, pretraining = finetune_rows(sources), _corpus(sources), _pretraining(sources)
    tables = paper_tables(tasks)
    sizes = (cell["parameters"] for cell in pretraining["cells"] if cell["parameters"])
    words = only(sources, "clean").fact("words")
    if corpus["audit"]:
        words = corpus["audit"]["trained"]["words"]
    return Collection(
        sources, pretraining, tasks, tables, transfer_rows(sources), zero_shot_rows(sources),
        corpus, distance_from_paper(next(sizes, None), words, tasks, tables),
        run_cost(sources, run),
    )


def _corpus(sources: Sequence[Source]) -> dict[str, Any]:
    figures = [
        {"stage": stage, "name": name, "label": label, "value": value}
        for stage, name, label in _FIGURES
        if (value := only(sources, stage).fact(name, "shards.json")) is not None
    ]
    clean = only(sources, "clean").summary
    counts = {name: dict(sorted((clean.get(name) or {}).items())) for name in ("rejected", "rules")}
    audit = only(sources, "audit").document("audit.json")
    return {"figures": figures, **counts, "audit": audit}


def _pretraining(sources: Sequence[Source]) -> dict[str, Any]:
    shard, file = only(sources, "shard"), "shards.json"
    baselines = {name: shard.fact(f"{name}_perplexity", file) for name in ("unigram", "bigram")}
    return {
        **{f"{name}_perplexity": value for name, value in baselines.items()},
        "tokens": {name: shard.fact(f"{name}_tokens", file) for name in ("train", "held_out")},
        "unknown_share": shard.fact("unknown_rate", file),
        "cells": [_cell(source, baselines) for source in of_kind(sources, "pretrain")],
    }


def _cell(source: Source, baselines: Mapping[str, float | None]) -> dict[str, Any]:
    rows = source.rows(METRICS)
    held_out = [row for row in rows if row.get(PERPLEXITY) is not None]
    first, last = (held_out[0], held_out[-1]) if held_out else ({}, {})
    final = last.get(PERPLEXITY)
    return {
        "cell": source.cell, "parameters": source.fact("parameters"),
        "updates": rows[-1]["step"] if rows else None, "tokens": source.fact("tokens"),
        "epochs": source.fact("epochs"), "held_out_perplexity": final,
        "bits_per_byte": last.get(BITS_PER_BYTE),
        "initial_perplexity": first.get(PERPLEXITY) if first.get("step") == 0 else None,
        **{f"share_of_{name}": final / value if final and value else None
           for name, value in baselines.items()},
        "train_loss": next((row["loss"] for row in reversed(rows) if "loss" in row), None),
        "curve": [{"step": row["step"], "perplexity": row[PERPLEXITY],
                   "bits_per_byte": row.get(BITS_PER_BYTE)} for row in held_out],
    }  # fmt: skip


def main_settings(job: Source) -> list[tuple[str, Any, Any]]:
    """(name, value, the paper's value) of the settings of a pre-training that the paper states;
    nothing where the job has not recorded them.
    """
    fields, given = PretrainConfig.model_fields, job.settings
    unused = {"heads"} if given.get("model") == "lstm" else {"units"}
    unused.add("warmup_steps" if given.get("warmup_steps") is None else "warmup_ratio")
    return [
        (name, given[name], fields[name].default)
        for name in fields
        if str(field_marks(fields[name]).get("source", "")).startswith("paper")
        and name in given and name not in unused
    ]


def samples_of(source: Source, points: int, copied: Share | None = None) -> list[dict[str, Any]]:
    """At most `points` steps, evenly spread from the first to the last: [{"step": ..., "texts":
    [{"prompt", "text", "copied"}]}]; `copied` of a text is None where it is not known.
    """
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in source.rows(SAMPLES):
        prompt, text = (str(row.get(name, "")) for name in ("prompt", "text"))
        share = copied(text) if copied else None
        sample = {"prompt": _one_line(prompt), "text": _one_line(text), "copied": share}
        by_step.setdefault(int(row["step"]), []).append(sample)
    steps = list(by_step)
    if len(steps) > points:
        steps = [steps[round(n * (len(steps) - 1) / (points - 1))] for n in range(points)]
    return [{"step": step, "texts": by_step[step]} for step in steps]


def _one_line(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())


def to_json(facts: Any) -> str:
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
