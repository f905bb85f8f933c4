"""Models by name: a folder, or a cell of a store such as `pretrain`, `pretrain@300` (a snapshot)
or `finetune[task=rte,seed=1]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpt1.errors import UserError
from gpt1.wording import counted
from pipeline.planning.last_run import RunArtifacts
from pipeline.store.base import Store
from pipeline.store.record import ArtifactRecord
from pipeline.store.snapshot import StoreSnapshot
from stages.contract import Artifact

if TYPE_CHECKING:
    from gpt1.report.sources import Source
    from gpt1.text.vocabulary import Vocabulary
    from gpt1.weights.checkpoint import Checkpoint

KINDS = ("pretrain", "given", "finetune", "export")
HEAD_CONFIG = "head.json"


@dataclass(frozen=True)
class Found:
    """A checkpoint, the cells that a card tells of, and what it is called in messages."""

    checkpoint: Checkpoint
    sources: Sequence[Source]
    name: str


def find(where: str, artifacts: Callable[[], RunArtifacts]) -> Found:
    """The checkpoint called `where`: a folder's path, or a cell of `artifacts`, which is called
    when there is no such folder.

    UserError: neither exists, several could be meant, or the cell kept no weights.
    """
    from gpt1.weights.checkpoint import load_checkpoint

    if Path(where).is_dir():
        return Found(load_checkpoint(Path(where)), (), where)
    cell, _, step = where.partition("@")
    try:
        found = artifacts()
        record = found.choose(cell, KINDS)
    except UserError as error:
        raise UserError(
            f"{where}: no such folder, and {error}; or give a checkpoint folder"
        ) from None
    artifact, store = record.artifact(), found.store
    if artifact.stage == "export":
        return Found(load_checkpoint(store.fetch_folder(artifact, "hf/config.json")), (), where)
    return Found(_load(store, record, artifact, step), _sources(found, record, step), where)


def kept(task: str, found: RunArtifacts) -> str:
    """A task's first fine-tuned job with weights, of variant `full` where there is one.

    UserError when none has.
    """
    records = [record for cell in found.of_kind(("finetune",)) if (record := found.record(cell))]
    of_task = [record for record in records if record.settings["task"] == task]
    with_weights = [record for record in of_task if HEAD_CONFIG in record.files]
    if with_weights:
        return str(
            min(
                with_weights, key=lambda record: record.settings.get("variant", "full") != "full"
            ).cell
        )
    what = f"no finished fine-tuned job of {task!r}"
    if of_task:
        what = f"{counted(len(of_task), 'fine-tuned job')} of {task!r}, none with weights"
    tasks = (
        ", ".join(
            sorted(
                {record.settings["task"] for record in records if HEAD_CONFIG in record.files}
            )
        )
        or "none"
    )
    raise UserError(
        f"{found.name}: {what} (tasks with weights: {tasks}); rerun finetune with that run's"
        " options and --set finetune.keep_model=true, or choose a folder or job with --model"
    )


def _load(store: Store, record: ArtifactRecord, artifact: Artifact, step: str) -> Checkpoint:
    from gpt1.tasks.finetuned import load_finetuned
    from gpt1.weights.checkpoint import Checkpoint, check_vocabulary
    from gpt1.weights.store import load_model

    name = "model.safetensors"
    if step:
        name = f"snapshots/step-{int(step):08d}.safetensors" if step.isdigit() else step
    if name not in artifact.files:
        snapshots = ", ".join(
            str(int(file.name[15:23])) for file in artifact.under("snapshots/step-")
        )
        raise UserError(
            f"{artifact.cell}: {name} was not kept (finetune keeps it with `keep_model: true`);"
            f" snapshots: {snapshots or 'none'}"
        )
    model = load_model(store.fetch(artifact.file(name)))
    vocabulary = _vocabulary(store, record, artifact)
    check_vocabulary(model, vocabulary, artifact.cell)
    tuned = None
    if artifact.stage == "finetune":
        tuned = load_finetuned(model, store.fetch_folder(artifact, name))
    return Checkpoint(model.eval(), vocabulary, tuned)


def _vocabulary(store: Store, record: ArtifactRecord, artifact: Artifact) -> Vocabulary:
    """The artifact's own, else that of the cell it was made from."""
    from gpt1.text.vocabulary import Vocabulary

    inputs = [
        store.artifact(kind, print_)
        for print_ in record.inputs.values()
        for kind in ("vocabulary", "given")
    ]
    for item in (artifact, *inputs):
        encoder = item.under("encoder_bpe_") if item else []
        if item and encoder:
            return Vocabulary.read(
                store.fetch(encoder[0]), store.fetch(item.under("vocab_")[0])
            )
    raise UserError(
        f"{artifact.cell}: its vocabulary is no longer in the store; rerun the vocabulary stage"
    )


def _sources(found: RunArtifacts, own: ArtifactRecord, step: str) -> list[Source]:
    """What a card tells of: the cell, those it was made from, their audit and, of a language model,
    its scores on tasks.

    Audit and scores are the run's: those of other runs were made with other settings or other task
    data. A snapshot has the settings of its cell; the scores are those of the last update.
    """
    from stages._sources import source_of
    from stages.export import STAGE

    store, places = found.store, set(found.cells.values())
    snapshot = StoreSnapshot(store)
    kinds = (*STAGE.requires, *STAGE.optional_inputs, "given")
    records = {
        record.fingerprint: record for kind in kinds for record in snapshot.records(kind)
    } | {own.fingerprint: own}
    behind: list[str] = []
    waiting = [own.fingerprint]
    while waiting:
        if (fingerprint := waiting.pop()) in records and fingerprint not in behind:
            behind.append(fingerprint)
            waiting += records[fingerprint].inputs.values()
    scored = ("finetune", "zero_shot") if own.stage != "finetune" else ()
    behind += [
        record.fingerprint
        for record in records.values()
        if f"{record.stage}/{record.fingerprint}" in places
        and (
            (record.stage == "audit" and set(behind) >= set(record.inputs.values()))
            or (record.stage in scored and own.fingerprint in record.inputs.values())
        )
    ]
    sources = [source_of(records[fingerprint].artifact(), store.fetch) for fingerprint in behind]
    if step:
        sources = [
            replace(sources[0], summary={}, files={}),
            *(one for one in sources[1:] if one.kind not in scored),
        ]
    return sources
