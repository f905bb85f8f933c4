"""`gpt1 pack`: a pre-training and its fine-tuning as a folder, for a machine without Ray."""

from __future__ import annotations

import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from gpt1.errors import UserError
from gpt1.model.config import variant_module
from gpt1.terminal import show
from pipeline.cli.inspect import done_artifacts
from pipeline.cli.options import ReadOptions
from pipeline.cli.output import new_folder
from pipeline.store.base import Store
from stages._finetuning import Fetch, read_task_data
from stages.contract import PackableFinetuning, PackableTraining

if TYPE_CHECKING:
    from pipeline.workflow.expand import Cell, Workflow
    from stages.contract import Artifact

RUN_FILE, OUTPUT = "run.json", "output"
PARTS_HELP = "Pack only the first N parts of the training text."
Parts = Annotated[int | None, typer.Option("--parts", min=1, help=PARTS_HELP)]


def pack(
    to: Path, /, cell: str | None = None, *, options: ReadOptions, parts: Parts = None,
    tasks: bool | None = None,
) -> None:
    """Pack pre-training and fine-tuning, with their inputs, to run on a machine without Ray.

    Args:
        to (FOLDER): Folder to write; must be new or empty.
        cell (--job): pretrain job to pack, if there are several.
        tasks (--tasks/--no-tasks): Also pack fine-tuning jobs (encoded tasks only).
    """
    workflow = options.workflow()
    chosen = _choose(workflow, cell)
    if variant_module(kind := getattr(chosen.settings, "model", "")):
        problem = f"its model {kind} is in a file of yours, which packed folders do not have"
        raise UserError(f"{chosen.id}: {problem}; train it with `gpt1 run` or `gpt1 submit`")
    done, fetch = done_artifacts(workflow, options.store), Store.existing(options.store).fetch
    shards, vocabulary = (_upstream(chosen, kind, done) for kind in ("shard", "vocabulary"))
    jobs = [] if tasks is False else _finetune_cells(workflow, chosen, done, required=tasks is True)
    with new_folder(to, str(to)) as folder:
        _fill(fetch, folder, chosen, shards, vocabulary, parts)
        if jobs:
            _fill_tasks(fetch, folder, jobs, int(vocabulary.summary["vocabulary"]), done)
    total = len(shards.under("train/"))
    less = f" ({min(parts, total)} of {total} parts of the training text)" if parts else ""
    config, tasks_config, model = (
        shlex.quote(f"{to.name}/{name}") for name in (RUN_FILE, "finetune.json", OUTPUT)
    )
    there = f"{to.name}/{OUTPUT}"
    show(f"Packed {chosen.id} into {to}{less}. On the other machine, with this repository on"
        f" PYTHONPATH:\n  torchrun --nproc-per-node=1 -m gpt1.train.pretrain --config {config}\nThe"
        f" model will be in {there}; use it with `gpt1 generate {model}` or the stage"
        " `pretrained`")  # fmt: skip
    if jobs:
        names = ", ".join(dict.fromkeys(_task(job) for job in jobs))
        show(f"Then run its {len(jobs)} fine-tuning jobs ({names}); the scores will be in"
            f" {there}/finetune.jsonl:\n  python -m gpt1.tasks.finetune_packed --config"
            f" {tasks_config}")  # fmt: skip


def _fill(
    fetch: Fetch, folder: Path, cell: Cell, shards: Artifact, vocabulary: Artifact,
    parts: int | None,
) -> None:
    from gpt1.data.shards import copy_spans

    train, held_out = shards.under("train/")[:parts], shards.under("held_out/")
    for part in (*train, *held_out):
        _copy(fetch(part), folder / part.name)
    parts_of_text = {Path(part.name).stem for part in train}
    copy_spans(fetch(shards.file("books.parquet")), folder / "books.parquet", parts_of_text)
    for file in (*vocabulary.under("encoder_bpe_"), *vocabulary.under("vocab_")):
        # Next to the weights to come: together they are a checkpoint
        _copy(fetch(file), folder / OUTPUT / file.name)
    for external_file in cell.stage.external_files(cell.settings):
        _copy(external_file.path, folder / external_file.name)
    names = [part.name for part in train], [part.name for part in held_out]
    stage = cast(PackableTraining, cell.stage)
    run = stage.run_config(cell.settings, folder / OUTPUT, *names)
    (folder / RUN_FILE).write_text(run, encoding="utf-8")


def _finetune_cells(
    workflow: Workflow, pretrain: Cell, done: dict[str, Artifact], required: bool,
) -> list[Cell]:
    """The finetune cells that need no model but `pretrain`'s and whose data and ids are done.

    `required`: UserError where there is none, and where data or ids are missing.
    """
    found = []
    for cell in workflow.cells.values():
        if not isinstance(cell.stage, PackableFinetuning):
            continue
        is_other = any(model != pretrain.id for model in cell.inputs.get("pretrain", ()))
        is_variant = variant_module(getattr(cell.settings, "model", ""))
        if is_variant or is_other or cell.inputs["vocabulary"] != pretrain.inputs["vocabulary"]:
            continue
        needed = [*cell.inputs["task_data"], *cell.inputs.get("encode", ())]
        missing = [need for need in needed if need not in done]
        if required and missing:
            last = missing[-1]
            run = f"run `gpt1 run {last}` with the same options, or pack with --no-tasks"
            raise UserError(f"{cell.id} needs {last}, which has not run yet; {run}")
        if "encode" in cell.inputs and not missing:
            found.append(cell)
    if required and not found:
        problem = f"no finetune job starts from {pretrain.id} and needs an `encode` stage"
        advice = "so --tasks packs nothing; add one, or drop --tasks"
        raise UserError(f"{workflow.file}: {problem}, {advice}")
    return found


def _fill_tasks(
    fetch: Fetch, folder: Path, cells: list[Cell], vocabulary: int, done: dict[str, Artifact],
) -> None:
    """Write the tasks' examples and ids, test sets with public labels, and the jobs' settings."""
    from gpt1.tasks.finetune_packed import JOBS_FILE, TASKS_FOLDER, jobs_json
    from gpt1.tokenizer.vocabulary import Vocabulary

    packed: dict[str, tuple[str, str]] = {}
    for cell in cells:
        task, data, ids = _task(cell), cell.inputs["task_data"][0], cell.inputs["encode"][0]
        if task not in packed:
            packed[task] = data, ids
            _copy_task(fetch, done[data], done[ids], folder / TASKS_FOLDER / task)
        elif packed[task] != (data, ids):
            both = " and ".join(sorted({*packed[task], data, ids}))
            advice = "keep one of each, or use --no-tasks"
            raise UserError(f"{cell.id}: task {task} comes from {both}; {advice}")
    stages = [(cast(PackableFinetuning, cell.stage), cell) for cell in cells]
    load = partial(Vocabulary.load, folder / OUTPUT)
    jobs = [stage.job(cell.settings, cell.id, vocabulary, load) for stage, cell in stages]
    (folder / JOBS_FILE).write_text(jobs_json(jobs), encoding="utf-8")


def _copy_task(fetch: Fetch, data: Artifact, ids: Artifact, target: Path) -> None:
    labelled = read_task_data(fetch, data).test_labelled
    for split in ("train", "dev", "test") if labelled else ("train", "dev"):
        _copy(fetch(data.file(f"{split}.jsonl")), target / f"{split}.jsonl")
        tokens = f"{split}.safetensors"
        _copy(fetch(ids.file(tokens)), target / tokens)
    _copy(fetch(data.file("task.json")), target / "task.json")


def _task(cell: Cell) -> str:
    settings: Any = cell.settings
    return settings.task


def _choose(workflow: Workflow, name: str | None) -> Cell:
    every = workflow.cells.values()
    cells = {cell.id: cell for cell in every if isinstance(cell.stage, PackableTraining)}
    if name in cells:
        return cells[name]
    if name is None and len(cells) == 1:
        return next(iter(cells.values()))
    found = f"no pretrain job {name!r}" if name else f"{len(cells)} pretrain jobs"
    known = ", ".join(cells) or "none"
    raise UserError(f"{workflow.file}: found {found}; choose one with --job (known: {known})")


def _upstream(cell: Cell, kind: str, done: dict[str, Artifact]) -> Artifact:
    [upstream] = cell.inputs[kind]
    if upstream not in done:
        run = f"run `gpt1 run {upstream}` with the same options"
        raise UserError(f"{upstream} has not run yet, so there is nothing to pack; {run}")
    return done[upstream]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
