"""Models by name: a folder, or a cell of a store such as `pretrain`, `pretrain@300` (a snapshot) or `finetune[task=rte,seed=1]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError
from pipeline.store import Store
from stages.contract import Artifact

if TYPE_CHECKING:
    from gpt1.report.sources import Source
    from gpt1.text.vocabulary import Vocabulary
    from gpt1.weights.checkpoint import Checkpoint

KINDS = ("pretrain", "given", "finetune", "export")
HEAD_CONFIG = "head.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """A checkpoint, the cells that a card tells of, and what it is called in messages."""

    checkpoint: Checkpoint
    sources: Sequence[Source]
    name: str


def find(where: str, store: str) -> Found:
    """The checkpoint called `where`: a folder's path, or a cell of the store, the newest of that name.

    A stage's bare name stands for its one cell; of a `pretrain` that made both kinds of model it is the Transformer.
    UserError: neither exists (known cells are named), several could be meant, or the cell kept no weights.
    """
    from gpt1.weights.checkpoint import load_checkpoint

    if Path(where).is_dir():
        return Found(load_checkpoint(Path(where)), (), where)
    cell, _, step = where.partition("@")
    target = _opened(cell, store)
    record = _newest(cell, target)
    artifact = target.to_artifact(record)
    if artifact.stage == "export":
        return Found(load_checkpoint(artifact.path("hf/config.json").parent), (), where)
    return Found(_load(target, record, artifact, step), _sources(target, record, step), where)


def kept(task: str, store: str) -> str:
    """The newest fine-tuned cell of a task whose weights were kept. UserError when there is none."""
    records = [record for record in Store.existing(store).records("finetune") if record["settings"].get("task") == task]
    whole = [record for record in records if HEAD_CONFIG in record["files"]]
    if whole:
        return str(max(whole, key=lambda record: record["finished"])["cell"])
    found = f"{len(records)} fine-tuned cells of {task!r}, none with its weights" if records else f"no fine-tuned cell of {task!r}"
    raise UserError(f"{store}: {found}; run finetune with `--set finetune.keep_model=true`, or name a folder or cell with --model")


def _opened(cell: str, store: str) -> Store:
    try:
        return Store.existing(store)
    except UserError as error:
        raise UserError(f"{cell}: no such folder, and {error}, or give a checkpoint's folder") from None


def _newest(cell: str, store: Store) -> Record:
    records = [record for kind in KINDS for record in store.records(kind)]
    found = [record for record in records if record["cell"] == cell]
    found = found or [
        record for record in records if record["cell"].startswith(f"{cell}[") and record["settings"].get("model") != "lstm"
    ]
    names = sorted({record["cell"] for record in found})
    if len(names) > 1:
        raise UserError(f"{cell}: {len(names)} cells could be meant; name one of {', '.join(names)}")
    if found:
        return max(found, key=lambda record: record["finished"])
    known = ", ".join(sorted({record["cell"] for record in records})) or "none"
    raise UserError(f"{cell}: no such folder, and no cell of {store.where} with a model; cells with models: {known}")


def _load(store: Store, record: Record, artifact: Artifact, step: str) -> Checkpoint:
    from gpt1.tasks.finetuned import load_finetuned
    from gpt1.weights.checkpoint import Checkpoint, check_vocabulary
    from gpt1.weights.store import load_model

    name = "model.safetensors"
    if step:
        name = f"snapshots/step-{int(step):08d}.safetensors" if step.isdigit() else step
    if name not in artifact.files:
        snapshots = ", ".join(str(int(file.name[15:23])) for file in artifact.under("snapshots/step-"))
        raise UserError(f"{artifact.cell}: {name} was not kept (finetune: `keep_model: true`); snapshots: {snapshots or 'none'}")
    model, vocabulary = load_model(artifact.path(name)), _vocabulary(store, record, artifact)
    check_vocabulary(model, vocabulary, artifact.cell)
    tuned = None
    if artifact.stage == "finetune":
        tuned = load_finetuned(model, artifact.path(name).parent)
    return Checkpoint(model.eval(), vocabulary, tuned)


def _vocabulary(store: Store, record: Record, artifact: Artifact) -> Vocabulary:
    """The artifact's own, else that of the cell it was made from."""
    from gpt1.text.vocabulary import Vocabulary

    inputs = [store.artifact(kind, print_) for print_ in record["inputs"].values() for kind in ("vocabulary", "given")]
    for item in (artifact, *inputs):
        encoder = item.under("encoder_bpe_") if item else []
        if item and encoder:
            return Vocabulary.read(encoder[0].path, item.under("vocab_")[0].path)
    raise UserError(f"{artifact.cell}: the vocabulary it was made with is no longer in the store; make it again")


def _sources(store: Store, own: Record, step: str) -> list[Source]:
    """What a card tells of: the cell, those it was made from, their audit and, of a language model, its scores on tasks.

    A snapshot has the settings of its cell; the scores are those of the last update.
    """
    from stages._sources import source_of
    from stages.export import STAGE

    kinds = (*STAGE.requires, *STAGE.accepts, "given")
    records = {record["fingerprint"]: record for kind in kinds for record in store.records(kind)} | {own["fingerprint"]: own}
    behind: list[str] = []
    waiting = [own["fingerprint"]]
    while waiting:
        if (fingerprint := waiting.pop()) in records and fingerprint not in behind:
            behind.append(fingerprint)
            waiting += records[fingerprint]["inputs"].values()
    scored = ("finetune", "zero_shot") if own["stage"] != "finetune" else ()
    behind += [
        record["fingerprint"]
        for record in records.values()
        if (record["stage"] == "audit" and set(behind) >= set(record["inputs"].values()))
        or (record["stage"] in scored and own["fingerprint"] in record["inputs"].values())
    ]
    found = [source_of(store.to_artifact(records[fingerprint])) for fingerprint in behind]
    if step:
        found = [replace(found[0], summary={}, files={}), *(one for one in found[1:] if one.kind not in scored)]
    return found
