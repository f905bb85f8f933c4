"""What a stage is given when it runs: its inputs, a private place to write, its parts, publishing
at the end.

A part of a part-wise stage is an artifact of its own, made by a Ray task, or in this process
without a cluster.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpt1 import fault
from gpt1.errors import StoppedError, UserError
from gpt1.paths import leads_out
from gpt1.train.checkpoint import file_sha256
from pipeline.execution.shutdown import unblock_for_children
from pipeline.planning.fingerprint import canonical, fingerprint
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
    StoredFile,
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


class Outputs:
    """The files of one attempt, each hashed once it is written."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.folder, self._store = folder, store
        self.files: dict[str, StoredFile] = {}
        self._declared: dict[str, bool] = {}

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A binary file to write, an output once the block has ended well."""
        with self._place(name).open("wb") as file:
            yield file
        self._hash(name)

    def declare(self, name: str, volatile: bool = False) -> Path:
        """A path for a file that other code writes; hashed by `close`."""
        path = self._place(name)
        self._declared[name] = volatile
        return path

    def add(self, file: StoredFile) -> None:
        """Take in a file that is already hashed."""
        if file.name in self.files:
            raise ValueError(f"output {file.name!r} is written twice")
        self.files[file.name] = file

    def close(self) -> dict[str, StoredFile]:
        """All files, the declared ones hashed.

        FileNotFoundError for one that was declared and not written.
        """
        for name, volatile in self._declared.items():
            self._hash(name, volatile)
        self._declared.clear()
        return self.files

    def publish(self, started: float, **about: Any) -> bool:
        """Make the files an artifact; `about`: further fields of its record. False when another
        attempt was first.
        """
        files, finished = self.close(), time.time()
        record = ArtifactRecord(
            attempt=self.folder.name, digest=content_digest(files), files=files, started=started,
            finished=finished, seconds=finished - started, **about,
        )  # fmt: skip
        return self._store.publish(record)

    def _hash(self, name: str, volatile: bool = False) -> None:
        path = self.folder / name
        size, sha256 = path.stat().st_size, file_sha256(path)
        self.add(StoredFile(name, self._store.key(path), size, sha256, volatile))

    def _place(self, name: str) -> Path:
        if leads_out(name) or name in self.files or name in self._declared:
            raise ValueError(f"output name {name!r} leaves the attempt's folder or is used twice")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


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
        job = self._job
        tasks = part_tasks(job.store, job.uses, load_stage(job.uses).version, function, parts)
        job.store.leave(self.attempt, PARTS_FILE, [task.key for task in tasks])
        made = self._made(tasks)
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
        made = self._made(tasks) if missing else made
        return [made[task.key] for task in tasks]

    def publish(self) -> bool:
        """Hash what was declared and publish. False when another attempt was first."""
        job = self._job
        return self._outputs.publish(
            self._started, stage=job.uses, fingerprint=job.fingerprint, cell=job.cell, run=job.run,
            identity=dict(job.identity), settings=dict(job.settings), summary=self._summary,
            inputs={item.cell: item.fingerprint for item in job.inputs},
            input_digests={item.fingerprint: item.digest for item in job.inputs},
            parts=self._parts, resources=job.resources.model_dump(),
            **provenance(job.uses, job.settings.get("task"), job.settings.get("model")),
        )  # fmt: skip

    def _made(self, tasks: Sequence[PartTask]) -> dict[str, Artifact]:
        """The parts that are in the store, by key. Raises DamagedArtifact for those that are not
        as their records say, or whose records cannot be read.
        """
        kind, made = self._job.uses + PARTS, dict[str, Artifact]()
        snapshot = StoreSnapshot(self._job.store)
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


# Parts


@dataclass(frozen=True)
class PartTask:
    """All a worker needs to make one part."""

    store: Store
    stage: str
    key: str
    """The part's fingerprint: of stage, version, function and the part's identity."""
    function: PartFunction
    part: Part


def part_tasks(
    store: Store, stage: str, version: int, function: PartFunction, parts: Sequence[Part]
) -> list[PartTask]:
    """The tasks for parts. TypeError for a function that another process could not import."""
    name = function.__name__
    if function.__qualname__ != name or "<" in name:
        raise TypeError(f"{function.__qualname__} must be at the top level of its module")
    tasks = []
    for part in parts:
        identity = {"stage": stage, "version": version, "function": name}
        key = fingerprint({**identity, "identity": dict(part.identity)})
        tasks.append(PartTask(store, stage, key, function, part))
    return tasks


def make_part(task: PartTask) -> None:
    """Make and publish one part."""
    kind = task.stage + PARTS
    started = time.time()
    attempt = task.store.new_attempt(kind, task.key)
    outputs = Outputs(task.store, attempt)
    summary = task.function(task.store.localize(task.part.arguments), outputs) or {}
    fault.point("part.written")
    outputs.publish(
        started, stage=kind, fingerprint=task.key, cell=task.part.name, run=task.store.run,
        summary=canonical(summary), identity=canonical(dict(task.part.identity)),
        **provenance(task.stage),
    )  # fmt: skip
    fault.point("part.published")


def make_part_on_worker(task: PartTask) -> None:
    """Make a part in a process of the cluster's."""
    unblock_for_children()
    make_part(task)


def run_tasks(tasks: list[PartTask], given: Resources, done: Callable[[], None]) -> None:
    """Run part tasks on the cluster, at most `workers` of what is given at once (None: as many as
    fit), and call `done` after each.

    After the first exception no further task starts; those that run are waited for, then the
    exception is raised.
    """
    import ray

    fit = max(1, int(ray.cluster_resources().get("CPU", 1) / given.cpus))
    own = {"num_cpus": given.cpus, "num_gpus": given.gpus, "max_retries": 3}
    limit, remote = given.workers or fit, ray.remote(make_part_on_worker).options(**own)
    waiting = list(reversed(tasks))
    running: list[Any] = []
    failure: BaseException | None = None
    while waiting or running:
        while waiting and failure is None and len(running) < limit:
            running.append(remote.remote(waiting.pop()))
        if not running:
            break
        ready, running = ray.wait(running, num_returns=1)
        try:
            ray.get(ready[0])
            done()
        except ray.exceptions.RayTaskError as error:
            failure = failure or getattr(error, "cause", None) or error
    if failure is not None:
        raise failure
