"""What a stage is given when it runs: its inputs, a private place to write, its parts on the
cluster, publishing at the end.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1 import fault
from gpt1.errors import StoppedError, UserError
from pipeline.execution.map import Outputs, PartTask, make_part, part_tasks, run_tasks
from pipeline.planning.fingerprint import canonical
from pipeline.planning.planner import PARTS_FILE
from pipeline.planning.provenance import provenance
from pipeline.store.base import Store
from pipeline.store.record import PARTS, ArtifactRecord, DamagedArtifact, content_digest
from pipeline.store.snapshot import StoreSnapshot
from pipeline.workflow.stages import kinds_of, load_stage
from stages.contract import (
    Artifact,
    ExternalFile,
    Part,
    PartFunction,
    Reporter,
    Resources,
    StoreAccess,
)

MOST_NAMED = 5  # damages in one message
LONGEST_TRACE = 20_000  # characters that are kept of a traceback


@dataclass(frozen=True)
class Job:
    """All that a worker needs to run one cell."""

    store: Store
    uses: str
    cell: str
    fingerprint: str
    identity: Mapping[str, Any]
    settings: Mapping[str, Any]
    inputs: tuple[Artifact, ...]
    external_files: tuple[ExternalFile, ...]
    resources: Resources
    run: str = ""
    attempt: str = ""
    """The name of the attempt's folder; empty: a new one."""
    cluster: bool = True
    """Whether parts go to Ray; else they run in this process."""


class StageContext:
    """The `Context` of the stage contract."""

    def __init__(self, job: Job, reporter: Reporter) -> None:
        self._job = job
        self.cell = job.cell
        self.run = job.run
        self.resources = job.resources
        self.external_files: Sequence[ExternalFile] = job.external_files
        self.reporter = reporter
        self.store: StoreAccess = job.store
        self.attempt = job.store.new_attempt(job.uses, job.fingerprint, job.attempt)
        self._outputs = Outputs(job.store, self.attempt)
        self.open, self.output = self._outputs.open, self._outputs.declare
        self.fetch, self.fetch_folder = job.store.fetch, job.store.fetch_folder
        self.info, self.progress, self.log = reporter.info, reporter.progress, reporter.log
        self.flush, self.should_stop = reporter.flush, reporter.should_stop
        self._summary: dict[str, Any] = {}
        self._parts = {"made": 0, "reused": 0}
        self._started = time.time()

    def input(self, kind: str) -> Artifact:
        found = self.inputs(kind)
        if len(found) != 1:
            cells = [item.cell for item in found]
            raise RuntimeError(f"{self.cell}: expected one input of kind {kind!r}, found {cells}")
        return found[0]

    def inputs(self, kind: str | None = None) -> list[Artifact]:
        return [item for item in self._job.inputs if kind is None or kind in kinds_of(item.stage)]

    def add_files_of(self, part: Artifact) -> None:
        for file in part.files.values():
            self._outputs.add(file)

    def summary(self, values: Mapping[str, Any]) -> None:
        self._summary.update(canonical(dict(values)))

    def previous_attempts(self, name: str) -> list[Path]:
        attempts = self._job.store.attempts(self._job.uses, self._job.fingerprint)
        paths = [attempt / name for attempt in attempts if attempt != self.attempt]
        return [path for path in paths if path.exists() or self.store.storage.list(path)]

    def previous(self) -> Artifact | None:
        job = self._job
        others = [
            record
            for record in StoreSnapshot(job.store).records(job.uses)
            if record.cell == job.cell and record.fingerprint != job.fingerprint
        ]
        newest = max(others, key=lambda record: record.finished, default=None)
        return newest.artifact() if newest else None

    def map_parts(self, function: PartFunction, parts: Sequence[Part]) -> list[Artifact]:
        job, kind = self._job, self._job.uses + PARTS
        tasks = part_tasks(job.store, job.uses, load_stage(job.uses).version, function, parts)
        job.store.leave(self.attempt, PARTS_FILE, [task.key for task in tasks])
        made = self._made(kind, tasks)
        missing = [task for task in tasks if task.key not in made]
        done = len(tasks) - len(missing)
        self._parts["reused"] += done
        if done and missing:
            self.info(f"{done} of {len(tasks)} parts are cached")
        self.progress(done, len(tasks), "parts")

        def one_more() -> None:
            nonlocal done
            done += 1
            self._parts["made"] += 1
            self.progress(done, len(tasks), "parts")

        if job.cluster:
            run_tasks(missing, job.resources, one_more)
        for task in () if job.cluster else missing:
            make_part(task)
            one_more()
        made = self._made(kind, tasks) if missing else made
        return [made[task.key] for task in tasks]

    def publish(self) -> bool:
        """Hash what was declared and publish. False when another attempt was first."""
        job, files = self._job, self._outputs.close()
        finished = time.time()
        record = ArtifactRecord(
            stage=job.uses, fingerprint=job.fingerprint, attempt=self.attempt.name, cell=job.cell,
            digest=content_digest(files), files=files, identity=dict(job.identity),
            settings=dict(job.settings), summary=self._summary, run=job.run,
            inputs={item.cell: item.fingerprint for item in job.inputs},
            input_digests={item.fingerprint: item.digest for item in job.inputs},
            parts=self._parts, resources=job.resources.model_dump(), started=self._started,
            finished=finished, seconds=finished - self._started,
            **provenance(job.uses, job.settings.get("task")),
        )  # fmt: skip
        return job.store.publish(record)

    def _made(self, kind: str, tasks: Sequence[PartTask]) -> dict[str, Artifact]:
        """The parts that are in the store, by key. Raises DamagedArtifact for those that are not
        as their records say, or whose records cannot be read.
        """
        snapshot, made = StoreSnapshot(self._job.store), dict[str, Artifact]()
        snapshot.prefetch(kind, [task.key for task in tasks])
        damage: dict[str, str] = {}
        for task in tasks:
            last = snapshot.last_record(kind, task.key)
            if last.problem:
                damage[f"{kind}/{task.key}/"] = last.problem
            if last.record:
                damage |= snapshot.damage(last.record)
                made[task.key] = last.record.artifact()
        if damage:
            texts = [f"{key.removesuffix('/')}: {what}" for key, what in damage.items()]
            more = f", and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
            raise DamagedArtifact(", ".join(texts[:MOST_NAMED]) + more, tuple(damage))
        return made


def run_cell(job: Job, reporter: Reporter) -> None:
    """Run one cell and publish what it made; leaves word in its attempt when it fails."""
    stage = load_stage(job.uses)
    context = StageContext(job, reporter)
    try:
        stage.run(stage.settings_model.model_validate(dict(job.settings)), context)
        fault.point("job.written")
        context.publish()
        fault.point("job.published")
    except UserError as error:
        stopped = isinstance(error, StoppedError)
        job.store.fail(context.attempt, str(error), stopped=stopped)
        raise
    except BaseException as error:
        from pipeline.execution.causes import describe_failure  # by which Ray is imported

        text = f"{describe_failure(error)}\n{traceback.format_exc()[:LONGEST_TRACE]}"
        job.store.fail(context.attempt, text)
        raise
