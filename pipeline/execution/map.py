"""The parts of a part-wise stage: each one an artifact of its own, made by a Ray task, or in
this process without a cluster.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from gpt1 import fault
from gpt1.paths import leads_out
from gpt1.train.checkpoint import file_sha256
from pipeline.execution.shutdown import unblock_for_children
from pipeline.planning.fingerprint import canonical, fingerprint
from pipeline.planning.provenance import provenance
from pipeline.store.base import Store
from pipeline.store.record import PARTS, ArtifactRecord, content_digest
from stages.contract import Part, PartFunction, Resources, StoredFile


class Outputs:
    """The files of one attempt, each hashed once it is written."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.folder = folder
        self._key = store.key(folder)
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

    def _hash(self, name: str, volatile: bool = False) -> None:
        path = self.folder / name
        size, sha256 = path.stat().st_size, file_sha256(path)
        self.add(StoredFile(name, f"{self._key}/{name}", size, sha256, volatile))

    def _place(self, name: str) -> Path:
        if leads_out(name) or name in self.files or name in self._declared:
            raise ValueError(f"output name {name!r} leaves the attempt's folder or is used twice")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


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
    files = outputs.close()
    record = ArtifactRecord(
        stage=kind, fingerprint=task.key, attempt=attempt.name, cell=task.part.name,
        digest=content_digest(files), files=files, summary=canonical(summary),
        identity=canonical(dict(task.part.identity)), run=task.store.run, started=started,
        finished=time.time(), seconds=time.time() - started, **provenance(task.stage),
    )  # fmt: skip
    fault.point("part.written")
    task.store.publish(record)
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
