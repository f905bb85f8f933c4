"""The first screen: five questions a reader comes with, each with a headline and a sentence or two;
and the figures of the previous run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt1.format import counted, number, share, short, signed, span
from gpt1.report.collect import Collection
from gpt1.report.dag import stage_of
from gpt1.report.run_cost import PAPER_PETAFLOP_DAYS
from gpt1.tasks.registry import TASKS


@dataclass(frozen=True)
class Answer:
    """`anchor`: the section of the page that says more."""

    question: str
    headline: str
    text: Sequence[str]
    anchor: str


def answers(report: Collection) -> list[Answer]:
    """In the order a reader asks."""
    learned = report.verdict() or ["No model was evaluated in this workflow."]
    return [
        Answer("Did it learn?", _learned(report), learned, "pre-training"),
        Answer("How far from the paper?", *_far(report.distance), "tables"),
        Answer("Where did the data come from?", *_data(report), "corpus"),
        Answer("What ran, what was cached?", *_ran(report.cost), "workflow"),
        Answer("How long, how costly?", *_cost(report.cost), "workflow"),
    ]


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The headline figures that both runs have: `label`, `before`, `now` and their `difference`."""
    return [
        {"label": _label(name), "before": before[name], "now": now[name],
         "difference": now[name] - before[name]}
        for name in now
        if isinstance(before.get(name), int | float)
    ]  # fmt: skip


def _label(name: str) -> str:
    kind, _, of = name.partition("/")
    if kind == "score":
        return TASKS[of].title if of in TASKS else of
    what, _, cell = of.rpartition("/")
    what = what.replace("bpb", "bits per byte")
    return f"{cell}: held-out {what}" if cell else name.replace("_", " ")


def _learned(report: Collection) -> str:
    """Clearly better than the bigram model: yes; not by a tenth: barely; than the unigram model: a
    little; than neither: no.
    """
    cells = [cell for cell in report.pretraining["cells"] if cell["held_out_perplexity"]]
    if not cells:
        return "Not measured"
    best = min(cells, key=lambda cell: cell["held_out_perplexity"])
    if best["share_of_unigram"] is None:
        return f"Perplexity {number(best['held_out_perplexity'])}"
    if best["share_of_bigram"] is not None and best["share_of_bigram"] < 1:
        return "Yes" if best["share_of_bigram"] <= 0.9 else "Barely"
    return "A little" if best["share_of_unigram"] < 1 else "No"


def _far(distance: Mapping[str, Any]) -> tuple[str, list[str]]:
    names = (("parameters", "117 M parameters"), ("words", "985 M words"))
    shares = [f"{share(distance[name])} of the {what}" for name, what in names if distance[name]]
    text = [f"Compared with the paper, this run has {' and '.join(shares)}."] if shares else []
    rows, count = distance["differences"], len(distance["tasks_tried"]) or "None"
    tried = f"{count} of the paper's {distance['tasks_of_paper']} tasks"
    if not rows:
        size = distance["parameters"]
        return f"{share(size)} of its size" if size else "Not known", [*text, f"{tried} ran."]
    extremes = (choose(rows, key=lambda row: row["points"]) for choose in (min, max))
    ends = (f"{row['points']:+.1f} ({row['column']})" for row in extremes)
    spread = f", from {' to '.join(ends)}" if len(rows) > 1 else ""
    return f"{signed(distance['mean_points'])} points", [
        *text,
        f"{tried}: {signed(distance['mean_points'])} points on average{spread}, our dev scores"
        " minus the paper's test scores.",
    ]


def _data(report: Collection) -> tuple[str, list[str]]:
    books, authors = report.figure("ingest", "books"), report.figure("ingest", "authors")
    if books is None:
        return "Not known", ["No stage of this workflow read books."]
    text = f"{report.origin or 'The books'}: {short(report.figure('ingest', 'words'))} words"
    if authors:
        text += f" by {counted(authors, 'author')}"
    if audit := report.corpus["audit"]:
        text += f", {short(audit['trained']['words'])} trained on"
    if (held_out := report.figure("split", "held_out_books")) is not None:
        text += f", {counted(held_out, 'book')} held out"
    tasks = "The tasks come from their publishers' files."
    if all(row["task"].startswith("demo_") for row in report.tasks):
        tasks = "The tasks are made from the same books."
    return counted(books, "book"), [f"{text}.", *([tasks] if report.tasks else [])]


def _ran(cost: Mapping[str, Any]) -> tuple[str, list[str]]:
    kept = list(dict.fromkeys(stage_of(cell["cell"]) for cell in cost["cells"] if not cell["made"]))
    more = f" and {len(kept) - 6} more" if len(kept) > 6 else ""
    text = f"Cached from earlier runs: {', '.join(kept[:6])}{more}."
    if not cost["taken"]:
        text = "Every job ran in this run."
    elif not cost["made"]:
        text = "Every job but the report was cached from earlier runs."
    longest = max(cost["cells"], key=lambda cell: cell["seconds"] or 0, default={"seconds": 0})
    if longest["seconds"]:
        text += f" Longest job: {longest['cell']}, {span(longest['seconds'])}."
    return f"{cost['made']} ran, {cost['taken']} cached", [text]


def _cost(cost: Mapping[str, Any]) -> tuple[str, list[str]]:
    headline = "Nothing new" if cost["cells"] and not cost["made"] else "Not known"
    if cost["wall_seconds"] is not None:
        headline = span(cost["wall_seconds"])
    text = []
    if cost["core_seconds"]:
        text = [f"This run used at least {_used(cost, '')}."]
    if cost["taken"] and cost["all_core_seconds"]:
        text.append(f"Total compute, cached jobs included: {_used(cost, 'all_')}.")
    if hardware := _hardware(cost):
        text.append(f"Pre-trained on {'; '.join(hardware)}.")
    speeds = cost["speed"].values()
    if days := sum(speed.get("petaflop_days", 0.0) for speed in speeds):
        rates = " and ".join(f"{speed['tokens_per_second']:,.0f}" for speed in speeds)
        part = share(days / PAPER_PETAFLOP_DAYS)
        text.append(f"{rates} tokens/s, {part} of the paper's compute.")
    return headline, text


def _used(cost: Mapping[str, Any], of: str) -> str:
    cores, gpus = cost[f"{of}core_seconds"], cost[f"{of}gpu_seconds"]
    return f"{span(cores)} of core time" + (f" and {span(gpus)} of GPU time" if gpus else "")


def _hardware(cost: Mapping[str, Any]) -> list[str]:
    """What the pre-training jobs ran on: `2 ranks of AMD EPYC 9654`."""
    found = (f"{counted(one['ranks'], 'rank')} of {one['device']}"
             for one in cost["hardware"].values())
    return list(dict.fromkeys(found))


def setup(cost: Mapping[str, Any]) -> list[str]:
    """Hardware, the version of torch, commits and the run: what tells two reports apart."""
    torch, run = cost["packages"].get("torch"), cost["run"]
    commits = (f"commit {one[:12]}{'+changes' if '+' in one else ''}" for one in cost["commits"])
    return [*_hardware(cost), *([f"torch {torch}"] if torch else []), *commits,
            *([f"run {run}"] if run else [])]  # fmt: skip
