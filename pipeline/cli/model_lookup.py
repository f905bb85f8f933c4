"""Models by name: a folder, or a cell of a store such as `pretrain`, `pretrain@300` (a snapshot)
or `finetune[task=rte,seed=1]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from gpt1.errors import UserError
from gpt1.format import counted
from gpt1.model.config import variant_module
from gpt1.terminal import show
from gpt1.train.checkpoint import file_sha256
from pipeline.planning.last_run import RunArtifacts
from pipeline.store.base import Store
from pipeline.store.record import PARTS, ArtifactRecord
from pipeline.store.snapshot import StoreSnapshot
from pipeline.workflow.stages import load_stage
from pipeline.workflow.user_code import find_user_code, install
from stages._checkpoint_files import variant_files
from stages.contract import Artifact
from stages.export import HEAD_CONFIG

if TYPE_CHECKING:
    from gpt1.report.sources import Source
    from gpt1.tokenizer.vocabulary import Vocabulary
    from gpt1.weights.checkpoint import Checkpoint

KINDS = ("pretrain", "pretrained", "finetune", "export")


@dataclass(frozen=True)
class ResolvedModel:
    """A checkpoint, what it is called in messages, the steps of its job's snapshots, and how to get
    the jobs its card is about, and what is said of them.
    """

    checkpoint: Checkpoint
    name: str
    snapshots: Sequence[int] = ()
    behind: Callable[[], tuple[list[Artifact], list[Source]]] = lambda: ([], [])

    def export(self, folder: Path, license: str = "", snapshots: Sequence[int] = ()) -> None:
        """Write it in transformers' format, with a model card and a manifest. `snapshots`: the
        steps whose folders are in it already.
        """
        from gpt1.report.model_card import Publication
        from stages._exported import write_export

        write_export(  # of a folder's path the last name
            folder, PurePath(self.name).name, self.checkpoint, *self.behind(),
            Publication(license=license), partial(show, error=True), snapshots,
        )


def resolve_model(where: str, artifacts: Callable[[], RunArtifacts]) -> ResolvedModel:
    """The checkpoint called `where`: a folder's path, or a cell of `artifacts`, which is called
    when there is no such folder.

    UserError: neither exists, several could be meant, or the cell kept no weights.
    """
    from gpt1.weights.checkpoint import load_checkpoint

    if Path(where).is_dir():
        return ResolvedModel(load_checkpoint(Path(where)), where)
    cell, _, step = where.partition("@")
    try:
        found = artifacts()
        record = found.choose(cell, KINDS)
    except UserError as error:
        problem = f"{where}: no such folder, and {error}"
        raise UserError(f"{problem}; or give a checkpoint folder") from None
    artifact, store = record.artifact(), found.store
    if artifact.stage == "export":
        checkpoint = load_checkpoint(store.fetch_folder(artifact, "hf/config.json"))
        return ResolvedModel(checkpoint, where)
    _import_variant(found, record)
    checkpoint, behind = _load(store, record, artifact, step), partial(_behind, found, record, step)
    return ResolvedModel(checkpoint, where, () if step else _steps(artifact), behind)


def finetuned_job(task: str, found: RunArtifacts) -> str:
    """A task's first fine-tuned job with weights, of model `gpt` and variant `full` where there is
    one.

    UserError when none has.
    """
    records = [record for cell in found.of_kind(("finetune",)) if (record := found.record(cell))]
    with_weights = [record for record in records if HEAD_CONFIG in record.files]
    jobs = [record for record in with_weights if record.settings["task"] == task]
    if jobs:
        usual = (("model", "gpt"), ("variant", "full"))
        unusual = [[job.settings.get(key, one) != one for key, one in usual] for job in jobs]
        return jobs[unusual.index(min(unusual))].cell
    what = f"no finished fine-tuned job of {task!r}"
    if count := sum(record.settings["task"] == task for record in records):
        what = f"{counted(count, 'fine-tuned job')} of {task!r}, none with weights"
    tasks = sorted({record.settings["task"] for record in with_weights})
    rerun = "rerun finetune with that run's options and --set finetune.keep_model=true"
    what += f" (tasks with weights: {', '.join(tasks) or 'none'}); {rerun}"
    raise UserError(f"{found.name}: {what}, or choose a folder or job with --model")


def _import_variant(found: RunArtifacts, record: ArtifactRecord) -> None:
    """Import the class of a variant that the record's settings name, from the workflow's folder;
    say where its file has changed since.
    """
    kind = str(record.settings.get("model", ""))
    if (module := variant_module(kind)) is None:
        return
    if found.workflow is None:
        problem = f"its class {kind} was in the folder of a workflow that is gone"
        raise UserError(f"{record.cell}: {problem}; give that workflow with --file")
    install(find_user_code(found.workflow, {module: record.cell}))
    [file] = variant_files(kind)
    if record.identity["files"].get(kind) != file_sha256(file.path):
        what = f"{file.path} has changed since {record.cell} ran"
        show(f"gpt1: {what}; the weights may not fit it", error=True)


def _load(store: Store, record: ArtifactRecord, artifact: Artifact, step: str) -> Checkpoint:
    from gpt1.tasks.model import load_finetuned
    from gpt1.weights.checkpoint import Checkpoint
    from gpt1.weights.store import check_vocabulary, load_model

    name = "model.safetensors"
    if step:
        is_number = re.fullmatch(r"[0-9]{1,9}", step)
        name = f"snapshots/step-{int(step):08d}.safetensors" if is_number else step
    if name not in artifact.files:
        steps = ", ".join(map(str, _steps(artifact))) or "none"
        what = f"{name} was not kept (finetune keeps it with `keep_model: true`)"
        raise UserError(f"{artifact.cell}: {what}; snapshots: {steps}")
    model = load_model(store.fetch(artifact.file(name)))
    vocabulary = _vocabulary(store, record, artifact)
    check_vocabulary(model.config, vocabulary, artifact.cell)
    tuned = None
    if artifact.stage == "finetune":
        tuned = load_finetuned(model, store.fetch_folder(artifact, name))
    return Checkpoint(model.eval(), vocabulary, tuned)


def _steps(artifact: Artifact) -> list[int]:
    """The steps of its snapshots."""
    return [int(PurePath(file.name).stem[5:]) for file in artifact.under("snapshots/step-")]


def _vocabulary(store: Store, record: ArtifactRecord, artifact: Artifact) -> Vocabulary:
    """The artifact's own, else that of the cell it was made from."""
    from gpt1.tokenizer.vocabulary import Vocabulary

    kinds, prints = ("vocabulary", "pretrained"), record.inputs.values()
    inputs = [store.artifact(kind, print_) for print_ in prints for kind in kinds]
    for source in filter(None, (artifact, *inputs)):
        if files := source.under("encoder_bpe_"):
            return Vocabulary.load(store.fetch_folder(source, files[0].name))
    problem = "its vocabulary is no longer in the store; rerun the vocabulary stage"
    raise UserError(f"{artifact.cell}: {problem}")


def _is_at_hand(kind: str) -> bool:
    """Whether a kind of stage can be imported: a user's module is beside the workflow."""
    with suppress(UserError):
        return bool(load_stage(kind))
    return False


def _behind(
    found: RunArtifacts, own: ArtifactRecord, step: str
) -> tuple[list[Artifact], list[Source]]:
    """What a card is about, and what is said of it: the cell, those it was made from, their audit
    and, of a language model, its scores on tasks.

    Audit and scores are the run's: those of other runs were made with other settings or other task
    data. A snapshot has the settings of its cell; the scores are those of the last update.
    """
    from stages.report import source_of

    store, places = found.store, set(found.cells.values())
    snapshot = StoreSnapshot(store)
    records = {
        record.fingerprint: record
        for kind in snapshot.stages()
        if not kind.endswith(PARTS) and _is_at_hand(kind)
        for record in snapshot.records(kind)
    } | {own.fingerprint: own}
    chosen: dict[str, ArtifactRecord] = {}
    waiting = [own.fingerprint]
    while waiting:
        if (fingerprint := waiting.pop()) in records and fingerprint not in chosen:
            chosen[fingerprint] = records[fingerprint]
            waiting += records[fingerprint].inputs.values()
    lineage, scored = set(chosen), ("finetune", "zero_shot") if own.stage != "finetune" else ()
    for fingerprint, record in records.items():
        inputs = set(record.inputs.values())
        audits = record.stage == "audit" and inputs <= lineage
        scores = record.stage in scored and own.fingerprint in inputs
        if (audits or scores) and f"{record.stage}/{fingerprint}" in places:
            chosen[fingerprint] = record
    artifacts = [record.artifact() for record in chosen.values()]
    sources = [source_of(one, store.fetch) for one in artifacts]
    if step:
        others = [one for one in sources[1:] if one.kind not in scored]
        sources = [replace(sources[0], summary={}, files={}), *others]
    return artifacts, sources
