"""Commands that look at a workflow and its store: plan, status, graph, path, describe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt1.errors import UserError
from gpt1.format import counted, span
from gpt1.report.dag import Cells, as_svg, boxes, stage_of
from gpt1.terminal import clean, show
from gpt1.train.cost_model import DEFAULT_MFU, Device
from pipeline.cli.options import STAGES, Json, ReadOptions, Stages
from pipeline.cli.output import format_table, named, print_json
from pipeline.planning.planner import Entry, Plan, make_plan
from pipeline.store.base import Store
from pipeline.workflow.expand import Workflow
from pipeline.workflow.yaml_source import nearest
from stages.contract import Artifact, Forecastable, SizedVocabulary

TOKENS_HELP = "Tokens in the corpus; default: those of the shards."
Tokens = Annotated[int | None, typer.Option("--tokens", min=1, help=TOKENS_HELP)]
MFU_HELP = "Fraction to assume of the GPU's peak in the profile's precision."
Mfu = Annotated[float, typer.Option("--mfu", min=0.001, max=1.0, help=MFU_HELP)]
CellName = Annotated[
    str, typer.Argument(help="Stage or job.", metavar="STAGE-OR-JOB", autocompletion=STAGES)
]


def plan(options: ReadOptions, stages: Stages = None, as_json: Json = False) -> None:
    """Show what `run` would run, and why, without running anything."""
    plan = options.plan(*(stages or ()))
    print_json(_facts(plan)) if as_json else print_plan(plan)


def status(options: ReadOptions, as_json: Json = False, explain: bool = False) -> None:
    """Show each stage's state (done, stale, partial, stopped, failed, or new), why, and how long
    it took.

    Args:
        explain: Show each reason on its own line, and each job's rerun cost.
    """
    plan = options.plan()
    if as_json:
        print_json(_facts(plan))
    elif explain:
        _print_explained(plan)
    else:
        print_plan(plan, everything=True)


def graph(options: ReadOptions, svg: Path | None = None) -> None:
    """Draw the workflow with the state of each stage.

    Args:
        svg: Write an SVG to this file.
    """
    entries = options.plan().entries.values()
    cells = [(entry.cell.id, str(entry.state), entry.cell.needs) for entry in entries]
    if svg is None:
        show(draw(cells))
        return
    seconds: dict[str, float] = {}
    for entry in entries:
        seconds[entry.cell.node] = seconds.get(entry.cell.node, 0.0) + (entry.cost or 0.0)
    notes = {stage: [span(total)] if total else [] for stage, total in seconds.items()}
    with named(f"--svg {svg}", "choose another file"):
        svg.write_text(clean(as_svg(cells, notes)), encoding="utf-8")
    show(f"wrote {svg}")


def path(stage: CellName, options: ReadOptions) -> None:
    """Print the folder (on S3: the address) of a stage's output, one line per job.

    Parts are stored elsewhere: record.json has the path of every file.
    """
    artifacts = options.artifacts()
    cells = [cell for cell in artifacts.cells if stage in (cell, stage_of(cell))]
    if not cells:
        known = sorted(set(map(stage_of, artifacts.cells)))
        raise UserError(f"{artifacts.name}: unknown stage {stage!r}; {nearest(stage, known)}")
    folders, store = {}, artifacts.store
    for cell in cells:
        record = artifacts.record(cell)
        if record is None:
            raise UserError(f"{artifacts.name}: {cell} has not run; start it with `gpt1 run`")
        folders[cell] = f"{store.where}/{record.stage}/{record.fingerprint}/{record.attempt}"
    show("\n".join(folders.values() if len(folders) == 1 else map("\t".join, folders.items())))


def describe(
    options: ReadOptions, tokens: Tokens = None, device: str | None = None,
    mfu: Mfu = DEFAULT_MFU, as_json: Json = False,
) -> None:
    """Estimate what pre-training will need: parameters and FLOPs by part, memory, steps, tokens,
    epochs, time.

    Args:
        device: GPU to estimate the time for, such as H100.
    """
    workflow, target = options.workflow(), Device(device, mfu) if device else None
    try:
        artifacts = done_artifacts(workflow, options.store)
    except UserError:  # no store, or no books here (`run` says so); only the epochs need them
        artifacts = {}
    facts, texts = [], []
    for cell in workflow.cells.values():
        if isinstance(cell.stage, Forecastable):
            size, vocabulary = _vocabulary(workflow, cell.inputs["vocabulary"][0], artifacts)
            count, corpus = _corpus(tokens, artifacts.get(cell.inputs["shard"][0]))
            forecast = cell.stage.forecast(cell.settings, cell.resources, size, count, target)
            about = {"cell": cell.id, "vocabulary": vocabulary, "corpus": corpus}
            facts.append({**about, **forecast.to_dict()})
            texts.append(f"{cell.id}\n{forecast}\nvocabulary: {vocabulary}; corpus: {corpus}")
    if not facts:
        found = "no stage uses `pretrain`; add one, or choose another workflow with --file"
        raise UserError(f"{workflow.file}: {found}")
    print_json(facts) if as_json else show("\n\n".join(texts))


def print_plan(plan: Plan, everything: bool = False) -> None:
    """Print what will run, and why; `everything`: also what is done."""
    entries = [one for one in plan.entries.values() if everything or one.run or one.notes]
    rows = [(entry.cell.id, str(entry.state), _why(entry)) for entry in entries]
    if rows:
        show(format_table(rows))
    waiting = plan.to_run
    known = [entry.cost for entry in waiting if entry.cost is not None]
    cost = f"; {len(known)} of them took {span(sum(known))} last time" if known else ""
    count = f"{len(waiting)} of {len(plan.entries)} jobs to run{cost}"
    show(count if waiting else "everything is up to date, nothing to run")


def _reasons(entry: Entry) -> list[str]:
    return [reason for reason in [*entry.reasons, *entry.notes] if reason != entry.state]


def _why(entry: Entry) -> str:
    cost = f" (took {span(entry.cost)})" if entry.cost is not None else ""
    return "; ".join(_reasons(entry)) + cost


def _facts(plan: Plan) -> dict[str, Any]:
    """A plan for programs."""
    cells = []
    for one in plan.entries.values():
        digest = one.artifact.digest if one.artifact else None
        cells.append({
            "cell": one.cell.id, "stage": one.cell.uses, "state": str(one.state), "run": one.run,
            "reasons": one.reasons, "notes": one.notes, "fingerprint": one.fingerprint,
            "seconds": one.cost, "digest": digest, "needs": one.cell.needs,
        })  # fmt: skip
    return {"workflow": plan.workflow.name, "profile": plan.workflow.profile, "cells": cells}


def _print_explained(plan: Plan) -> None:
    downstream: dict[str, set[str]] = {cell: set() for cell in plan.entries}
    for cell, entry in reversed(list(plan.entries.items())):
        for need in entry.cell.needs:
            downstream[need] |= {cell, *downstream[cell]}
    for cell, entry in plan.entries.items():
        show(f"{cell}: {entry.state}")
        for reason in _reasons(entry):
            show(f"    why: {reason}")
        if entry.cell.needs:
            show(f"    needs: {', '.join(entry.cell.needs)}")
        cost = "unknown" if entry.cost is None else span(entry.cost)
        if after := [plan.entries[name].cost for name in downstream[cell]]:
            unknown = f", {after.count(None)} of them unknown" if None in after else ""
            seconds, jobs = span(sum(filter(None, after))), counted(len(after), "job")
            cost += f" (+{seconds} downstream, {jobs}{unknown})"
        show(f"    rerun cost: {cost}")


def draw(cells: Cells) -> str:
    """A line a stage, indented by its depth, with its state and what it needs."""
    rows = []
    for box in boxes(cells):
        needs = f"<- {', '.join(box.needs)}" if box.needs else ""
        rows.append(("  " * box.depth + box.title, box.caption, needs))
    return format_table(rows)


def done_artifacts(workflow: Workflow, store: str) -> dict[str, Artifact]:
    """The artifacts that the store has of this very workflow, by cell.

    UserError when there is no store, or none that answers, and for books and data sets that cannot
    be read.
    """
    entries = make_plan(workflow, Store.existing(store)).entries
    return {cell: entry.artifact for cell, entry in entries.items() if entry.artifact is not None}


def _corpus(tokens: int | None, shards: Artifact | None) -> tuple[int | None, str]:
    """The number of tokens, and where it is from."""
    if tokens is not None:
        return tokens, f"{tokens:,} tokens, from --tokens"
    if shards is not None:
        tokens = int(shards.summary["train_tokens"])
        return tokens, f"{tokens:,} tokens in the store's shards"
    return None, "unknown (no shards in the store; set it with --tokens)"


def _vocabulary(
    workflow: Workflow, name: str, artifacts: Mapping[str, Artifact]
) -> tuple[int, str]:
    """The number of tokens, and where it is from."""
    if name in artifacts:
        size = int(artifacts[name].summary["vocabulary"])
        return size, f"{size:,} tokens, from the finished stage {name}"
    cell = workflow.cells[name]
    if not isinstance(cell.stage, SizedVocabulary):
        problem = "the vocabulary size is unknown until this stage has run"
        raise UserError(f"{name}: {problem}; run `gpt1 run {cell.node}` first")
    size = cell.stage.expected_size(cell.settings)
    return size, f"up to {size:,} tokens, from the settings"
