"""`gpt1 describe`: what a workflow's pre-training will need, before anything is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpt1.errors import UserError
from gpt1.train.cost_model import DEFAULT_MFU, Device
from pipeline.cli.options import (
    Assignments,
    FileToRead,
    Json,
    Profile,
    StoreOption,
    read_workflow,
)
from pipeline.planning.planner import make_plan
from pipeline.store.base import Store
from pipeline.workflow.expand import Cell, Workflow
from stages.contract import Artifact

if TYPE_CHECKING:
    from gpt1.train.cost_model import Forecast


@dataclass(frozen=True)
class Described:
    """A pre-training's forecast, and where the size of the vocabulary and of the corpus are
    from.
    """

    cell: str
    forecast: Forecast
    vocabulary: str
    corpus: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "cell": self.cell, "vocabulary": self.vocabulary, "corpus": self.corpus,
            **self.forecast.to_dict(),
        }

    def __str__(self) -> str:
        return f"{self.cell}\n{self.forecast}\nvocabulary: {self.vocabulary}; corpus: {self.corpus}"


def describe(
    file: FileToRead = None,
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=1, help="Tokens in the corpus; default: those of the shards."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="GPU to estimate the time for, such as H100."),
    ] = None,
    mfu: Annotated[
        float,
        typer.Option(
            "--mfu", min=0.001, max=1.0,
            help="Fraction to assume of the GPU's peak in the profile's precision.",
        ),
    ] = DEFAULT_MFU,
    as_json: Json = False,
) -> None:
    """Estimate what pre-training will need: parameters and FLOPs by part, memory, steps, tokens,
    epochs, time.
    """
    workflow = read_workflow(file, profile, assignments, store)
    on = Device(device, mfu) if device else None
    try:
        made = made_artifacts(workflow, store)
    except (
        UserError
    ):  # no store yet, or no books on this machine (`run` says so); only the epochs need them
        made = {}
    cells = [cell for cell in workflow.cells.values() if cell.uses == "pretrain"]
    if not cells:
        found = "no stage uses `pretrain`; add one, or choose another workflow with --file"
        raise UserError(f"{workflow.file}: {found}")
    rows = [_describe(cell, workflow, made, tokens, on) for cell in cells]
    if as_json:
        print(json.dumps([row.to_dict() for row in rows], indent=1))
        return
    print("\n\n".join(map(str, rows)))


def made_artifacts(workflow: Workflow, store: str) -> dict[str, Artifact]:
    """The artifacts that the store has of this very workflow, by cell.

    UserError when there is no store, or none that answers, and for books and data sets that cannot
    be read.
    """
    entries = make_plan(workflow, Store.existing(store)).entries
    return {cell: entry.artifact for cell, entry in entries.items() if entry.artifact is not None}


def _describe(
    cell: Cell, workflow: Workflow, made: Mapping[str, Artifact], tokens: int | None,
    device: Device | None,
) -> Described:
    size, vocabulary = _vocabulary(cell, workflow, made)
    corpus = (
        f"{tokens:,} tokens, from --tokens"
        if tokens
        else "unknown (no shards in the store; set it with --tokens)"
    )
    shards = made.get(cell.inputs["shard"][0])
    if tokens is None and shards is not None:
        tokens = int(shards.summary["train_tokens"])
        corpus = f"{tokens:,} tokens in the store's shards"
    stage: Any = cell.stage
    return Described(
        cell.id, stage.forecast(cell.settings, cell.resources, size, tokens, device), vocabulary,
        corpus,
    )


def _vocabulary(cell: Cell, workflow: Workflow, made: Mapping[str, Artifact]) -> tuple[int, str]:
    """The number of tokens, and where it is from."""
    upstream = workflow.cells[cell.inputs["vocabulary"][0]]
    if upstream.id in made:
        size = int(made[upstream.id].summary["vocabulary"])
        return size, f"{size:,} tokens, from the finished stage {upstream.id}"
    stage: Any = upstream.stage
    if not hasattr(stage, "expected_size"):
        raise UserError(
            f"{upstream.id}: the vocabulary size is unknown until this stage has run; run `gpt1 run"
            f" {upstream.node}` first"
        )
    size = stage.expected_size(upstream.settings)
    return size, f"up to {size:,} tokens, from the settings"
