"""Fills a tracking server from the store: every run, job and point once, whatever happens.

    truth      the events (events.py), and the records of the artifacts
    identity   the tag `gpt1.uid` of an MLflow run: the name of a run of the workflow, RUN/STAGE for
               a matrix, STAGE-FINGERPRINT for a job over all its attempts, with the number of
               withdrawn records where there are any
    progress   the tag `gpt1.exported` of an MLflow run: of a job the attempts that were sent; of a
               run `all`, or, where a driver ended without a word, the bytes of its events: it may
               have been suspended, and write more

Nothing is kept in the store, so a new server, or a deleted data base, is filled again. What has no
such tag is looked up before it is created, and sent from its beginning: the same tag, parameter,
file or point twice changes nothing in MLflow. Of a metric's step the point of the earliest attempt
counts; one that the server has stays. A step that one process logs again with another value, as
after a rollback, is a new point.

One process exports to a server, by a lease. It reads events, then makes sure that it still has the
lease, then sends: so one that was suspended and goes on later can only send what was in the store
before, which whoever took over has sent just so.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gpt1.errors import UserError
from gpt1.wording import span
from pipeline.store.base import Store
from pipeline.store.lease import HeldError, Leases
from pipeline.store.record import (
    ArtifactRecord,
    DamagedArtifact,
    UnreadableRecord,
    record_name,
)
from pipeline.tracking.events import RUNS, EventReader
from pipeline.tracking.mlflow_server import REFUSALS, MlflowServer, default_uri, is_damage
from pipeline.tracking.names import metric_name, split_summary
from pipeline.tracking.notes import CELLS, comparison, fit, job_note, link, table
from stages.contract import MODELS, StoredFile

if TYPE_CHECKING:
    from pipeline.tracking.model_registry import Training

UPLOAD_LIMIT = 10_000_000  # bytes; larger files are recorded by reference
LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG, LONGEST_DIGEST = (
    250, 6000, 8000, 36,
)  # MLflow's limits, in characters  # fmt: skip
UID, EXPORTED, ALL = "gpt1.uid", "gpt1.exported", "all"
OVER_TOKENS = "over_tokens"  # curves under this name count tokens, not steps
CURVES_OVER_TOKENS = ("train/loss", "val/perplexity")
FEW = 20  # MLflow runs that are looked up one by one
NEWEST = "newest"  # the alias of the registered model's last version
NOTE = "mlflow.note.content"  # the tag that MLflow shows as a run's description
LOOK, LOOK_REMOTE = 1.0, 3.0  # seconds between two looks at a store: a bucket is asked by requests
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries to reach a server
CLOSING = 30.0  # seconds that a run waits for the server in the end
WITNESS = 90.0  # seconds: after EXPIRY a driver on another host has shown whether it lives


class NotAlone(Exception):
    """Another process exports to the server now."""


@dataclass
class _Job:
    """A job, over all its attempts."""

    facts: Mapping[str, Any]
    run_id: str
    readers: dict[str, EventReader] = field(default_factory=dict)
    """By attempt; in the order of their names, that of time."""
    sent: dict[str, set[int]] = field(default_factory=dict)
    """The steps that each metric has."""
    values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    """What each process (attempt, writer and metric) has logged, by step."""
    runs: set[str] = field(default_factory=set)
    """The runs of the workflow that have it open."""
    has_ended: bool = False
    """Whether the last of them said so."""

    @property
    def folder(self) -> str:
        return f"{self.facts['stage']}/{self.facts['fingerprint']}"


@dataclass
class _Run:
    """A run of the workflow."""

    name: str
    reader: EventReader
    profile: str = ""
    jobs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """What its driver said of each job, by its id."""
    open: dict[str, str] = field(default_factory=dict)
    """Jobs that have not ended, by their ids: their uids."""
    ended: Mapping[str, Any] | None = None


class Exporter:
    """Sends what a server lacks of a store. Not for more than one thread.

    `may_send` raises NotAlone once another process exports. `info` gets what the server refuses for
    good, a line each.
    """

    def __init__(
        self, store: Store, server: MlflowServer, leases: Leases,
        may_send: Callable[[], None], info: Callable[[str], None],
    ) -> None:
        self._store, self._server, self._leases = store, server, leases
        self._may_send, self._info = may_send, info
        self.sent = 0
        """Runs that the server has completely now, and had not."""
        self._said: set[str] = set()
        self._runs: dict[str, _Run] = {}
        self._jobs: dict[str, _Job] = {}
        self._ids: dict[str, str] = {}
        self._complete: set[str] | None = None
        self._client: Any = None

    def export(self) -> dict[str, bool]:
        """Send all that is new. Returns the runs that the server does not have completely, and
        whether their drivers are known to live.

        Raises what MLflow raises when there is no server; then the next call begins from what the
        server has.
        """
        try:
            if self._client is not self._server.client:  # the first, or of another data base
                self._forget()
            if self._complete is None:
                self._complete = self.complete()
            found = {name: self._export(name) for name in self._names()}
            return {name: alive for name, alive in found.items() if alive is not None}
        except BaseException:
            self._forget()
            raise

    def _forget(self) -> None:
        for known in (self._runs, self._jobs, self._ids):
            known.clear()
        self._complete, self._client = None, self._server.client

    def complete(self) -> set[str]:
        """The runs that the server has completely, or had: some may have been deleted there. One
        that counted as dead, and has written more since, is not among them.
        """
        self._client = self._server.client
        filter_ = f"tags.gpt1.kind = 'workflow' AND tags.`{EXPORTED}` LIKE '%'"
        found = set()
        for run in self._search(filter_, deleted=True):
            name, size = run.data.tags["gpt1.run"], run.data.tags[EXPORTED]
            if size == ALL or int(size) == EventReader(self._store, f"{RUNS}/{name}").size():
                found.add(name)
        return found

    def _names(self) -> list[str]:
        prefix = f"{RUNS}/"
        if self._store.shared:
            folder = self._store.root / RUNS
            names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        else:
            entries = self._store.objects.entries(prefix)
            names = {entry.key.removeprefix(prefix).partition("/")[0] for entry in entries}
        return sorted(names - (self._complete or set()))

    def _export(self, name: str) -> bool | None:
        """Send what is new of a run: whether its driver lives; None when nothing more can come."""
        folder = f"{RUNS}/{name}"
        run = self._runs.setdefault(name, _Run(name, EventReader(self._store, folder, self._info)))
        is_held = self._leases.is_held(folder)  # before reading: who gives it back has written all
        new = run.reader.read()
        self._may_send()
        for _, event in new:
            self._apply(run, event)
        for uid in run.open.values():
            self._send_points(self._jobs[uid])
        if run.ended is None and is_held is False:
            run.ended = {"status": "KILLED", "time": run.reader.last, "skipped": []}
        if run.ended is None:
            return bool(is_held)
        self._end(run, run.ended)
        assert self._complete is not None
        self._complete.add(name)
        self.sent += 1
        return None

    def _apply(self, run: _Run, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "start":
            run.profile = event["tags"]["gpt1.profile"] or event["tags"]["gpt1.workflow"]
            run_id = self._open(run.name, event["name"], event["time"], event["tags"], None)
            self._send_params(run_id, event["params"])
        elif kind == "job":
            self._begin(run, event)
        elif kind == "cached":
            run.jobs[event["cell"]] = event
        elif kind == "job_end":
            self._end_job(run, event["cell"], event["status"], event["time"], event["error"])
        elif kind == "end":
            run.ended = event

    # A job

    def _begin(self, run: _Run, event: Mapping[str, Any]) -> None:
        uid, group, parent = job_uid(event), event["group"], run.name
        run.jobs[event["cell"]] = event
        if group:
            parent = f"{run.name}/{group}"
            if parent not in self._ids:
                tags = {"gpt1.kind": "matrix", "gpt1.stage": event["stage"]}
                self._open(parent, group, event["time"], tags, run.name)
        if uid not in self._jobs:
            self._jobs[uid] = _Job(event, "")
        job = self._jobs[uid]
        tags = {
            "gpt1.kind": "job" if group else "stage", "gpt1.stage": event["stage"],
            "gpt1.cell": event["cell"], "gpt1.fingerprint": event["fingerprint"], **event["tags"],
        }  # fmt: skip
        found = self._find(uid)
        if found and event["attempt"] in found.data.tags.get(EXPORTED, "").split():
            self._ids[uid] = found.info.run_id
            return
        job.run_id = self._open(uid, event["cell"], event["time"], tags, parent)
        if found:
            for name in found.data.metrics:
                points = self._client.get_metric_history(job.run_id, name)
                job.sent.setdefault(name, set()).update(point.step for point in points)
        self._send_params(job.run_id, event["params"])
        folder = f"{job.folder}/{event['attempt']}"
        job.readers[event["attempt"]] = EventReader(self._store, folder, self._info)
        run.open[event["cell"]] = uid
        job.runs.add(run.name)

    def _send_points(self, job: _Job) -> None:
        """Send the new points of a job."""
        from mlflow.entities import Metric

        points: list[Any] = []
        odd: dict[str, str] = {}
        for attempt in sorted(job.readers):
            for writer, event in job.readers[attempt].read():
                when = round(1000 * event["time"])
                for name, step, value in _curves(job.facts, event):
                    logged = job.values.setdefault((f"{attempt}/{writer}", name), {})
                    steps = job.sent.setdefault(name, set())
                    is_again = step in logged and logged[step] != value
                    if is_again or step not in steps:
                        points.append(Metric(name, value if math.isfinite(value) else math.nan,
                                             when, step))  # fmt: skip
                        if not math.isfinite(value):
                            odd.setdefault(f"gpt1.not_finite.{name}", f"{value} at step {step}")
                    logged[step] = value
                    steps.add(step)
        if points:
            self._may_send()
        for some in _groups(points, 1000):
            self._try("points", job.run_id, self._client.log_batch, job.run_id, metrics=some)
        self._send_tags(job.run_id, odd)

    def _end_job(
        self, run: _Run, cell: str, status: str, when: float, error: str, was_killed: bool = False
    ) -> None:
        uid = run.open.pop(cell, None)
        if uid is None:
            return
        job = self._jobs[uid]
        self._send_points(job)
        for reader in job.readers.values():
            reader.close()
        job.runs.discard(run.name)
        record = self._record(job.facts)
        if record is None and was_killed and (job.runs or job.has_ended):
            return  # another run has taken it over
        job.has_ended = not was_killed
        if record is None:
            self._send_tags(job.run_id, {"gpt1.error": error[:4000]} if error else {})
            self._terminate(job.run_id, status, when)
            return
        self._send_record(run, job, record)
        self._terminate(job.run_id, "FINISHED", record.finished)
        self._send_tags(job.run_id, {EXPORTED: " ".join(sorted(job.readers))})

    def _record(self, facts: Mapping[str, Any]) -> ArtifactRecord | None:
        """What a job published, also where it was withdrawn since."""
        stage, fingerprint = facts["stage"], facts["fingerprint"]
        name = record_name(facts["withdrawn"] + 1)
        data = self._store.objects.read(f"{stage}/{fingerprint}/{name}")
        try:
            return None if data is None else ArtifactRecord.from_bytes(data, stage, fingerprint)
        except UnreadableRecord:
            return None

    def _send_record(self, run: _Run, job: _Job, record: ArtifactRecord) -> None:
        """What a job made: its own small files as files, everything by reference."""
        store, server, run_id = self._store, self._server, job.run_id
        params, metrics = split_summary(record.summary)
        self._send_params(run_id, params)
        figures = {**metrics, "seconds": record.seconds}
        new = {name: value for name, value in figures.items() if not job.sent.get(_name(name))}
        self._send_figures(run_id, new, record.finished)
        if job.facts["is_last"]:
            self._send_figures(self._ids[run.name], metrics, record.finished)
        for file in record.files.values():
            if file.key.startswith(f"{job.folder}/"):  # not those of its parts
                folder = f"outputs/{file.name}".rpartition("/")[0]
                if file.size <= UPLOAD_LIMIT:
                    self._try("files", run_id, self._send_file, run_id, file, folder)
                else:
                    about = {"uri": store.address(file.key), "size": file.size}
                    server.write_json(run_id, f"outputs/{file.name}.reference.json", about)
        server.write_json(run_id, record_name(1), record.model_dump(mode="json"))
        files = [
            {"name": file.name, "uri": store.address(file.key), "size": file.size,
                "sha256": file.sha256}
            for file in record.files.values()
        ]  # fmt: skip
        server.write_json(run_id, "artifacts.json", files)
        self._send_datasets(job, record)
        self._send_models(run, job, record)
        inputs = {cell: self._run_of(print_) for cell, print_ in sorted(record.inputs.items())}
        tags = {
            "gpt1.digest": record.digest, "gpt1.artifacts": len(files),
            "gpt1.artifacts.bytes": sum(file.size for file in record.files.values()),
            "gpt1.parts.made": record.parts.get("made", 0),
            "gpt1.parts.reused": record.parts.get("reused", 0), NOTE: job_note(record, inputs),
        }  # fmt: skip
        self._send_tags(run_id, tags)

    def _send_file(self, run_id: str, file: StoredFile, folder: str) -> None:
        self._server.log_run_files(run_id, self._store.fetch(file), folder)

    def _send_datasets(self, job: _Job, record: ArtifactRecord) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        stage_of = {
            print_: kind
            for kind, prints in record.identity.get("inputs", {}).items()
            for print_ in prints
        }
        used = [
            (name, record.input_digests[print_],
                self._store.address(f"{stage_of.get(print_, '')}/{print_}"), record.stage)
            for name, print_ in sorted(record.inputs.items())
        ] + [
            (name, sha256, f"source:{name}", "source")
            for name, sha256 in list(record.identity.get("files", {}).items())[:20]
        ]  # fmt: skip
        inputs = []
        for name, digest, source, context in used:
            scheme = source.partition(":")[0]
            kind = {"http": "http", "https": "http", "s3": "s3"}.get(scheme, "local")
            dataset = Dataset(name[:500], digest[:32][:LONGEST_DIGEST], kind, _source(source))
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        if inputs:
            self._try("data sets", job.run_id, self._client.log_inputs, job.run_id, inputs)

    def _send_models(self, run: _Run, job: _Job, record: ArtifactRecord) -> None:
        for model, name in record.summary.get(MODELS, {}).items():
            self._try("models", job.run_id, self._send_model, run, job, record, model, name)

    def _send_model(
        self, run: _Run, job: _Job, record: ArtifactRecord, model: str, name: str
    ) -> None:
        from pipeline.tracking.model_registry import register

        artifact = record.artifact()
        folder = self._store.fetch_folder(artifact, artifact.under(f"{model}/")[0].name)
        fingerprint, aliases = f"{record.fingerprint}/{model}", [NEWEST, run.profile]
        training = self._training(record, model)
        register(self._server, job.run_id, name, folder, fingerprint, aliases, training)

    def _training(self, record: ArtifactRecord, model: str) -> Training | None:
        """The job that trained a model of an export; None where store or server lacks it."""
        from pipeline.tracking.model_registry import Training
        from stages.export import is_trained_by

        for stage, prints in record.identity.get("inputs", {}).items():
            for cell, print_ in record.inputs.items():
                if print_ in prints and is_trained_by(model, stage, cell):
                    trained, run_id = self._store.record(stage, print_), self._run_of(print_)
                    if trained is None or run_id is None:
                        return None
                    params, metrics = split_summary(trained.summary)
                    metrics = {_name(name): value for name, value in metrics.items()}
                    params = {**trained.settings, **params}
                    return Training(run_id, round(1000 * trained.finished), params, metrics)
        return None

    # A run

    def _end(self, run: _Run, event: Mapping[str, Any]) -> None:
        """End a run, and what it left open: its driver was killed, or is about to be."""
        run.reader.close()
        if run.name not in self._ids:
            return  # it was killed before it had said anything
        last = run.reader.last
        for cell, uid in list(run.open.items()):
            last = max([last, *(reader.last for reader in self._jobs[uid].readers.values())])
            self._end_job(run, cell, "KILLED", last, "", was_killed=True)
        when = event["time"] if event.get("event") else last
        self._find_runs_of({facts["fingerprint"] for facts in run.jobs.values()})
        groups = {facts["group"] for facts in run.jobs.values() if facts["event"] == "job"} - {None}
        records = {
            cell: self._record(facts)
            for cell, facts in run.jobs.items()
            if facts["event"] == "job" or facts["group"] in groups  # of the others only the name
        }
        for group in sorted(groups):
            run_id = self._ids[f"{run.name}/{group}"]
            self._send_note(run_id, *self._comparison(run, group, records))
            self._terminate(run_id, event["status"], when)
        tags = {"gpt1.skipped": ", ".join(event["skipped"])[:4000]} if event["skipped"] else {}
        rows, cells = [], []
        for cell, facts in run.jobs.items():
            found, record, maker = self._run_of(facts["fingerprint"]), records.get(cell), ""
            if facts["event"] == "cached":
                how, seconds, maker = f"cached, from run `{facts['run']}`", None, facts["run"]
            elif record is not None:
                how, seconds = f"ran in {span(record.seconds)}", record.seconds
            else:
                continue
            rows.append([link(cell, found), how])
            cells.append({"cell": cell, "run": found or maker, "seconds": seconds})
        self._send_note(self._ids[run.name], *table(["job", ""], rows), cells)
        self._send_tags(self._ids[run.name], tags)
        self._terminate(self._ids[run.name], event["status"], when)
        for group in groups:
            self._send_tags(self._ids[f"{run.name}/{group}"], {EXPORTED: ALL})
        size = ALL if event.get("event") else run.reader.size()
        self._send_tags(self._ids[run.name], {EXPORTED: size})

    def _comparison(
        self, run: _Run, group: str, records: Mapping[str, ArtifactRecord | None]
    ) -> tuple[str, list[str], list[dict[str, Any]]]:
        """The jobs of a matrix side by side: head and rows of a table, and all that is in them."""
        found = [
            (cell, facts, record)
            for cell, facts in run.jobs.items()
            if facts["group"] == group and (record := records.get(cell))
        ]
        figures = [split_summary(record.summary)[1] for _, _, record in found]
        axes = [facts["axes"] for _, facts, _ in found]
        runs = [self._run_of(facts["fingerprint"]) for _, facts, _ in found]
        everything = [
            {"cell": cell, "axes": axes_, "figures": figures_, "run": run_ or ""}
            for (cell, _, _), axes_, figures_, run_ in zip(found, axes, figures, runs, strict=True)
        ]
        return *comparison(axes, figures, runs), everything

    def _send_note(self, run_id: str, head: str, rows: Sequence[str], cells: Sequence[Any]) -> None:
        """A table as the description of a run; all of it as a file where there is no room."""
        if rows:
            note, left = fit(head, rows, LONGEST_TAG)
            if left:
                self._server.write_json(run_id, CELLS, list(cells))
            self._send_tags(run_id, {NOTE: note})

    # MLflow's runs

    def _search(self, filter_: str, deleted: bool = False) -> list[Any]:
        """MLflow's runs, oldest first."""
        from mlflow.entities import ViewType

        view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        found: list[Any] = []
        token = None
        while token != "":
            page = self._client.search_runs(
                [self._server.experiment_id], filter_, view, 1000, order, token
            )
            found, token = [*found, *page], page.token or ""
        return found

    def _find(self, uid: str) -> Any | None:
        """The MLflow run that carries `uid`. More than one, after a creation whose answer was lost:
        the others are deleted.
        """
        found = self._search(f"tags.`{UID}` = '{uid_tag(uid)}'")
        for other in found[1:]:
            self._client.delete_run(other.info.run_id)
        return found[0] if found else None

    def _open(
        self, uid: str, name: str, when: float, tags: Mapping[str, Any], parent: str | None
    ) -> str:
        """Begin a run, or go on with it, under this parent; returns MLflow's id."""
        all_tags = {**_texts(tags, LONGEST_TAG), UID: uid_tag(uid)}
        if parent is not None:
            all_tags["mlflow.parentRunId"] = self._ids[parent]
        found = self._find(uid)
        if found is None:
            start = round(1000 * when)
            experiment = self._server.experiment_id
            found = self._client.create_run(experiment, start, all_tags, name)
        else:
            self._client.update_run(found.info.run_id, status="RUNNING", name=name)
            self._send_tags(found.info.run_id, all_tags)
        self._ids[uid] = found.info.run_id
        return str(found.info.run_id)

    def _run_of(self, fingerprint: str) -> str | None:
        """The id of the newest MLflow run of a job; None where the server has none."""
        if fingerprint not in self._ids:
            found = self._search(f"tags.gpt1.fingerprint = '{fingerprint}'")
            self._ids[fingerprint] = found[-1].info.run_id if found else ""
        return self._ids[fingerprint] or None

    def _find_runs_of(self, fingerprints: set[str]) -> None:
        """Look all of these up at once, where they are many."""
        if len(fingerprints - self._ids.keys()) > FEW:
            for run in self._search("tags.gpt1.fingerprint LIKE '%'"):
                self._ids[run.data.tags["gpt1.fingerprint"]] = run.info.run_id
            self._ids = {**dict.fromkeys(fingerprints, ""), **self._ids}

    def _send_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Parameters; one that is there with another value cannot change, and becomes a tag."""
        from mlflow.entities import Param

        params = _texts(values, LONGEST_PARAM)
        there = self._client.get_run(run_id).data.params if params else {}
        new = [Param(name, value) for name, value in params.items() if name not in there]
        for some in _groups(new, 100):
            self._try("parameters", run_id, self._client.log_batch, run_id, params=some)
        self._send_tags(run_id, {
            f"gpt1.changed.{name}": value
            for name, value in params.items() if there.get(name, value) != value
        })  # fmt: skip

    def _send_figures(self, run_id: str, figures: Mapping[str, float], when: float) -> None:
        """Figures that are known once: points at step 0."""
        from mlflow.entities import Metric

        points = [
            Metric(_name(name), value if math.isfinite(value) else math.nan, round(1000 * when), 0)
            for name, value in figures.items()
        ]
        self._try("figures", run_id, self._client.log_batch, run_id, metrics=points)

    def _send_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        found = [RunTag(name, value) for name, value in _texts(tags, LONGEST_TAG).items()]
        for some in _groups(found, 100):
            self._try("tags", run_id, self._client.log_batch, run_id, tags=some)

    def _terminate(self, run_id: str, status: str, when: float) -> None:
        end = round(1000 * when)
        self._try("end", run_id, self._client.set_terminated, run_id, status, end)

    def _try(
        self, what: str, run_id: str, action: Callable[..., Any], *values: Any, **named: Any
    ) -> None:
        """What the server refuses for good, or is gone, is said once and left out: it must not hold
        up what comes after it.
        """
        from mlflow.exceptions import MlflowException

        try:
            action(*values, **named)
        except (MlflowException, DamagedArtifact, LookupError, TypeError, ValueError) as error:
            is_refusal = not isinstance(error, MlflowException) or error.error_code in REFUSALS
            if not is_refusal or is_damage(error):
                raise
            if f"{what} {run_id}" not in self._said:
                self._said.add(f"{what} {run_id}")
                self._info(f"MLflow has no {what} of run {run_id}: {brief(error)}")


@dataclass(frozen=True)
class Synced:
    """What `sync` did: runs that were sent, runs that the server lacks something of, and why; empty
    where it has all.
    """

    sent: int
    left: int
    trouble: str


class LiveExport:
    """Exports in a thread: all of a store, for as long as one run lasts; the first in `sync`.

    `info` gets a line when the server takes nothing, and when it does again.
    """

    def __init__(
        self, store: Store, run: str | None, leases: Leases, info: Callable[[str], None],
        uri: str | None = None,
    ) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(store.root)
        self.trouble: str | None = None
        """Why nothing is being sent; None when all is well."""
        self.sent = 0
        self.left: dict[str, bool] | None = None
        self._store, self._run, self._leases, self._info = store, run, leases, info
        self._server = MlflowServer(store, self.uri, info)
        self._lease = f"exports/{hashlib.sha256(self.uri.encode()).hexdigest()[:12]}"
        self._wake, self._closing = threading.Event(), threading.Event()
        self._until = math.inf
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(
        self, timeout: float = CLOSING, is_asked: Callable[[], bool] = lambda: False
    ) -> str:
        """Wait, for at most `timeout` seconds and until `is_asked`, until the server has the run;
        why it has not.
        """
        self._until = time.monotonic() + timeout
        self._closing.set()
        self._wake.set()
        while self._thread.is_alive() and not is_asked():
            if time.monotonic() > self._until + 2:
                break  # a request that hangs is left behind: it is a daemon
            self._thread.join(LOOK)
        if self._is_done():
            return ""
        return self.trouble or f"not done within {span(timeout)}"

    def _is_done(self) -> bool:
        """Whether there is nothing to wait for: of the run, or of all whose drivers have ended."""
        if self.left is None:
            return False
        return self._run not in self.left if self._run else all(self.left.values())

    def _over(self) -> bool:
        return self._closing.is_set() and (self._is_done() or time.monotonic() > self._until)

    def _work(self) -> None:
        pause = PAUSE
        while not self._over():
            try:
                self._export_until_over()
            except (HeldError, NotAlone):
                self._ask_other()
            except Exception as error:  # whatever it is must not end the thread: it is tried again
                if not (is_damage(error) and self._server.set_aside_damaged()):
                    self._in_trouble(error)
            finally:
                self._leases.give_back([self._lease])
            if not self._over():
                self._wake.clear()
                self._wake.wait(min(pause, PAUSE) if self._closing.is_set() else pause)
                pause = min(2 * pause, LONGEST_PAUSE) if self.trouble else PAUSE

    def _export_until_over(self) -> None:
        if not self._leases.is_ours(self._lease) and self._leases.is_held(self._lease) is not False:
            raise NotAlone  # not by `take`, in which others would wait with us
        self._leases.take([self._lease])
        may_send, info = self._check_lease, self._info
        exporter = Exporter(self._store, self._server, self._leases, may_send, info)
        while True:
            closing = self._closing.is_set()  # before the look: what was written until then is sent
            self.left, self.sent = exporter.export(), exporter.sent
            if self.trouble:
                self._info("MLflow answers again")
                self.trouble = None
            if closing and self._over():
                return
            self._wake.clear()
            wait = LOOK if self._store.shared else LOOK_REMOTE
            self._wake.wait(0.1 if closing and self._store.shared else wait)

    def _check_lease(self) -> None:
        if not self._leases.is_ours(self._lease):
            raise NotAlone

    def _ask_other(self) -> None:
        """Another process of this store exports; it may have sent this run meanwhile."""
        self.trouble = "another gpt1 process is filling MLflow from this store"
        if self._run is None:
            self._info(self.trouble)
            self.left = {}
        elif self._closing.is_set():
            try:
                info, server = self._info, self._server
                exporter = Exporter(self._store, server, self._leases, lambda: None, info)
                self.left = {} if self._run in exporter.complete() else {self._run: True}
            except Exception as error:
                self._in_trouble(error)

    def _in_trouble(self, error: Exception) -> None:
        reason = brief(error)
        user = urlsplit(self.uri).netloc.rpartition("@")[0]
        reason = reason.replace(f"{user}@", "") if user else reason
        if self.trouble is None:
            who = "the store" if isinstance(error, UserError) else "MLflow"
            self._info(f"{who} does not answer ({reason}); what it lacks is in the store")
        self.trouble = reason


def sync(
    store: Path | Store, uri: str | None = None, timeout: float = WITNESS,
    info: Callable[[str], None] = lambda _: None,
) -> Synced:
    """Send all that the server lacks of a store, for at most `timeout` seconds."""
    store = store if isinstance(store, Store) else Store.at(store)
    leases = Leases(store, "track sync", info)
    export = LiveExport(store, None, leases, info, uri)
    export.start()
    trouble = export.close(timeout)
    leases.release()
    left = sum(not alive for alive in (export.left or {}).values())
    return Synced(export.sent, left, trouble)


def job_uid(facts: Mapping[str, Any]) -> str:
    """The same for every attempt at one artifact; another once the artifact has been withdrawn."""
    withdrawn = f"-{facts['withdrawn']}" if facts["withdrawn"] else ""
    return f"{facts['stage']}-{facts['fingerprint']}{withdrawn}"


def _curves(
    facts: Mapping[str, Any], event: Mapping[str, Any]
) -> Iterator[tuple[str, int, float]]:
    """Name, step and value of the points of an event; those of a pre-training over the tokens that
    were read, too.
    """
    step = int(event["step"])
    for raw, value in event["values"].items():
        name = metric_name(raw)
        yield _name(name), step, float(value)
        if facts["tokens_per_step"] and name in CURVES_OVER_TOKENS:
            yield f"{OVER_TOKENS}/{name}", step * facts["tokens_per_step"], float(value)


def uid_tag(uid: str) -> str:
    """The value of the tag UID: MLflow's filters know no way to write a quotation mark."""
    return uid.replace("'", "%27")


def brief(error: BaseException) -> str:
    """An exception as part of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _groups(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _source(uri: str) -> str:
    """MLflow's pages read either, by the kind of the source."""
    return json.dumps({"uri": uri, "url": uri})


def _name(text: str) -> str:
    """A name MLflow accepts: letters, digits and `_-. :/`."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:LONGEST_NAME]


def _texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    cut = {_name(key): str(value)[: longest + 1] for key, value in values.items()}
    return {
        key: text if len(text) <= longest else text[: longest - 3] + "..."
        for key, text in cut.items()
    }
