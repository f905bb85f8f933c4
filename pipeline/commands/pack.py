"""`gpt1 pack`: a pre-training as a folder, for a machine that has torch and DeepSpeed and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpt1.errors import UserError
from pipeline.commands.describe import made_artifacts
from pipeline.commands.new_folder import new_folder
from pipeline.commands.options import Assignments, File, Profile, StoreOption
from pipeline.workflow import read

if TYPE_CHECKING:
    from pipeline.cells import Cell, Workflow
    from stages.contract import Artifact

RUN_FILE, OUTPUT = "run.json", "output"


def pack(
    to: Annotated[Path, typer.Argument(help="The folder to write: a new one, or an empty one.", metavar="FOLDER")],
    cell: Annotated[str | None, typer.Option("--cell", help="Which pretrain cell, where the workflow has several.")] = None,
    file: File = Path("workflow.yaml"),
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
    parts: Annotated[int | None, typer.Option("--parts", min=1, help="Only so many parts of the training text.")] = None,
) -> None:
    """Put a pre-training's settings, shards and vocabulary into a folder, to be run by torchrun on another machine."""
    workflow = read(file, profile, assignments or ())
    chosen = _choose(workflow, cell, file)
    made = made_artifacts(workflow, store)
    shards, vocabulary = (_upstream(chosen, kind, made) for kind in ("shard", "vocabulary"))
    with new_folder(to, str(to)) as folder:
        _fill(folder, chosen, shards, vocabulary, parts)
    there = len(shards.under("train/"))
    less = f" ({min(parts, there)} of {there} parts of the training text)" if parts else ""
    print(
        f"{chosen.id}: {to}{less}. There, with this repository's folder on PYTHONPATH:\n"
        f"  torchrun --nproc-per-node=1 -m gpt1.train.pretrain --config {to.name}/{RUN_FILE}\n"
        f"The model will lie in {to.name}/{OUTPUT}: for `gpt1 generate {to.name}/{OUTPUT}` and the stage `given`"
    )


def _fill(folder: Path, cell: Cell, shards: Artifact, vocabulary: Artifact, parts: int | None) -> None:
    train, held_out = shards.under("train/")[:parts], shards.under("held_out/")
    for part in (*train, *held_out):
        _copy(part.path, folder / part.name)
    _copy_books(shards.path("books.parquet"), folder / "books.parquet", {Path(part.name).stem for part in train})
    for found in (*vocabulary.under("encoder_bpe_"), *vocabulary.under("vocab_")):
        _copy(found.path, folder / OUTPUT / found.path.name)  # beside the weights to come: together they are a checkpoint
    stage: Any = cell.stage
    for outside in stage.outside(cell.settings):
        _copy(outside.path, folder / outside.name)
    names = [part.name for part in train], [part.name for part in held_out]
    (folder / RUN_FILE).write_text(stage.packed(cell.settings, folder / OUTPUT, *names), encoding="utf-8")


def _choose(workflow: Workflow, name: str | None, file: Path) -> Cell:
    cells = {cell.id: cell for cell in workflow.cells.values() if cell.uses == "pretrain"}
    if name in cells:
        return cells[name]
    if name is None and len(cells) == 1:
        return next(iter(cells.values()))
    found = f"found {name!r}" if name else "one must be named with --cell"
    raise UserError(f"{file}: {found}; its pretrain cells are: {', '.join(cells) or 'none'}")


def _upstream(cell: Cell, kind: str, made: dict[str, Artifact]) -> Artifact:
    [upstream] = cell.inputs[kind]
    if upstream not in made:
        raise UserError(f"{upstream} is not made yet, so there is nothing to pack; run `gpt1 run {upstream}` with the same options")
    return made[upstream]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _copy_books(source: Path, target: Path, parts: set[str]) -> None:
    """books.parquet with the held-out books and those of the training text's `parts`."""
    from gpt1.data.books_table import read_spans, write_spans

    with target.open("wb") as file:
        write_spans(file, [span for span in read_spans(source) if span.set != "train" or span.part in parts])
