"""The first screen: five questions a reader comes with, each with a headline and a sentence or
two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt1.format import counted, number, short, signed, span
from gpt1.report.corpus import figure
from gpt1.report.dag import stage_of
from gpt1.report.paper_gap import sentences, share
from gpt1.report.run_cost import PAPER_PETAFLOP_DAYS


@dataclass(frozen=True)
class Answer:
    """`anchor`: the section of the page that says more."""

    question: str
    headline: str
    text: Sequence[str]
    anchor: str


def answers(facts: Mapping[str, Any], making: Mapping[str, Any], origin: str) -> list[Answer]:
    """In the order a reader asks. `origin`: where the books came from, in words."""
    return [
        Answer(
            "Did it learn?", _learned(facts),
            facts["verdict"] or ["No model was evaluated in this workflow."], "pre-training",
        ),
        Answer(
            "How far from the paper?", _far(facts["distance"]), sentences(facts["distance"]),
            "tables",
        ),
        Answer("Where did the data come from?", *_data(facts, origin), "corpus"),
        Answer("What ran, what was cached?", *_ran(making), "workflow"),
        Answer("How long, how costly?", *_cost(making), "workflow"),
    ]


def _learned(facts: Mapping[str, Any]) -> str:
    """Better than the bigram model: yes; than the unigram model: a little; than neither: no."""
    cells = [cell for cell in facts["pretraining"]["cells"] if cell["held_out_perplexity"]]
    if not cells:
        return "Not measured"
    best = min(cells, key=lambda cell: cell["held_out_perplexity"])
    if best["share_of_unigram"] is None:
        return f"Perplexity {number(best['held_out_perplexity'])}"
    if best["share_of_bigram"] is not None and best["share_of_bigram"] < 1:
        return "Yes"
    return "A little" if best["share_of_unigram"] < 1 else "No"


def _far(distance: Mapping[str, Any]) -> str:
    if distance["mean_points"] is not None:
        return f"{signed(distance['mean_points'])} points"
    return f"{share(distance['parameters'])} of its size" if distance["parameters"] else "Not known"


def _ran(making: Mapping[str, Any]) -> tuple[str, list[str]]:
    cells, made, taken = making["cells"], making["made"], making["taken"]
    headline = f"{made} ran, {taken} cached"
    if not taken:
        text = "Every job ran in this run."
    elif not made:
        text = "Every job but the report was cached from earlier runs."
    else:
        kept = [cell["cell"] for cell in cells if not cell["made"]]
        text = f"Cached from earlier runs: {_list(list(dict.fromkeys(map(stage_of, kept))))}."
    longest = sorted(
        (cell for cell in cells if cell["seconds"]), key=lambda cell: -cell["seconds"]
    )[:1]
    return headline, [
        text,
        *(f"Longest job: {cell['cell']}, {span(cell['seconds'])}." for cell in longest),
    ]


def _list(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _cost(making: Mapping[str, Any]) -> tuple[str, list[str]]:
    wall = making["wall_seconds"]
    headline = (
        span(wall)
        if wall is not None
        else ("Nothing new" if making["cells"] and not making["made"] else "Not known")
    )
    used = [f"{span(making['core_seconds'])} of one core"] + (
        [f"{span(making['gpu_seconds'])} of one GPU"] if making["gpu_seconds"] else []
    )
    text = [f"This run used at least {' and '.join(used)}."] if making["core_seconds"] else []
    if making["taken"] and making["all_core_seconds"]:
        gpu = (
            f" and {span(making['all_gpu_seconds'])} of one GPU"
            if making["all_gpu_seconds"]
            else ""
        )
        text.append(
            f"Total compute, cached jobs included: {span(making['all_core_seconds'])} of one"
            f" core{gpu}."
        )
    days = sum(speed.get("petaflop_days", 0.0) for speed in making["speed"].values())
    if days:
        rates = " and ".join(
            f"{number(round(speed['tokens_per_second']))}" for speed in making["speed"].values()
        )
        text.append(
            f"Pre-training: {rates} tokens/s, {share(days / PAPER_PETAFLOP_DAYS)} of the"
            " paper's compute."
        )
    return headline, text


def _data(facts: Mapping[str, Any], origin: str) -> tuple[str, list[str]]:
    corpus, audit = facts["corpus"], facts["corpus"]["audit"]
    books = figure(corpus, "ingest", "books")
    if books is None:
        return "Not known", ["No stage of this workflow read books."]
    authors, words = figure(corpus, "ingest", "authors"), figure(corpus, "ingest", "words")
    trained = f", {short(audit['trained']['words'])} trained on" if audit else ""
    held_out = figure(corpus, "split", "held_out_books")
    by = f" by {counted(authors, 'author')}" if authors else ""
    text = [
        f"{origin or 'The books'}: {short(words)} words{by}{trained}"
        + (f", {counted(held_out, 'book')} held out" if held_out is not None else "")
        + "."
    ]
    if facts["tasks"]:
        ours = all(row["task"].startswith("demo_") for row in facts["tasks"])
        text.append(
            "The tasks are made from the same books."
            if ours
            else "The tasks come from their publishers' files."
        )
    return counted(books, "book"), text
