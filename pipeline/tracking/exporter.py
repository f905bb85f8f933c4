"""Fills a tracking server from the store: every run, job and point once, whatever happens.

    truth      the events (events.py), and the records of the artifacts
    identity   the tag `gpt1.uid` of an MLflow run: the name of a run of the workflow, RUN/STAGE for
               a matrix, STAGE-FINGERPRINT for a job over all its attempts, with the number of
               withdrawn records where there are any; and `gpt1.store_id`, because stores share a
               server
    progress   the tag `gpt1.exported` of an MLflow run: of a job the attempts that were sent; of a
               run `all`, or, where a driver ended without a word, the bytes of its events: it may
               have been suspended, and write more

Nothing is kept in the store, so a new server, or a deleted data base, is filled again. What has no
such tag is looked up before it is created, and sent from its beginning: the same tag, parameter,
file or point twice changes nothing in MLflow. Of a metric's step the point of the earliest attempt
counts; one that the server has stays. A step that one process logs again with another value, as
after a rollback, is a new point.

One process exports a store to a server, by a lease (live_export.py). It reads events, then makes
sure that it still has the lease, then sends: so one that was suspended and goes on later can only
send what was in the store before, which whoever took over has sent just so.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gpt1.errors import UserError
from gpt1.format import span
from pipeline.store.base import Store
from pipeline.store.lease import RUNS, Leases
from pipeline.store.record import ArtifactRecord, DamagedArtifact, UnreadableRecord, record_name
from pipeline.tracking import events
from pipeline.tracking.events import EventReader, JobCached, JobEnded, JobFacts, JobStarted, Point
from pipeline.tracking.mlflow_server import NOTE, REFUSALS, MlflowServer, is_damage
from pipeline.tracking.model_registry import Training, register
from pipeline.tracking.names import metric_name, split_summary
from pipeline.tracking.notes import CELLS, comparison, fit, job_note, link, table
from stages.contract import MODELS, StoredFile

UPLOAD_LIMIT = 10_000_000  # bytes; larger files are recorded by reference
# MLflow's limits, in characters:
LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG = 250, 6000, 8000
UID, STORE_ID, EXPORTED, ALL = "gpt1.uid", "gpt1.store_id", "gpt1.exported", "all"
OVER_TOKENS = "over_tokens"  # curves under this name count tokens, not steps
CURVES_OVER_TOKENS = ("train/loss", "val/perplexity")
FEW = 20  # MLflow runs that are looked up one by one
NEWEST = "newest"  # the alias of the registered model's last version
AGAIN = 60.0  # seconds until a run of which something could not be read is tried again


class NotAlone(Exception):
    """Another process exports to the server now."""


@dataclass
class _Job:
    """A job that has not ended, over all its attempts."""

    facts: JobFacts
    run_id: str
    readers: dict[str, EventReader] = field(default_factory=dict)
    """By attempt; in the order of their names, that of time."""
    steps: dict[str, set[int]] = field(default_factory=dict)
    """Those that each metric has on the server."""
    values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    """What each process (attempt, writer and metric) has logged, by step."""
    runs: set[str] = field(default_factory=set)
    """The runs of the workflow that have it open."""


@dataclass
class _Run:
    """A run of the workflow."""

    name: str
    reader: EventReader
    profile: str = ""
    jobs: dict[str, JobStarted | JobCached] = field(default_factory=dict)
    """What its driver said of each job, by its id."""
    open: dict[str, str] = field(default_factory=dict)
    """Jobs that have not ended, by their ids: their uids."""
    end: events.RunEnded | None = None
    again: float = 0.0
    """When to try again, by the monotonic clock."""


class Exporter:
    """Sends what a server lacks of a store. Not for more than one thread.

    `first`: the run that is sent before all others. `may_send` raises NotAlone once another process
    exports. `info` gets what the server refuses for good, and what cannot be read, a line each.
    """

    def __init__(
        self, store: Store, server: MlflowServer, leases: Leases, may_send: Callable[[], None],
        info: Callable[[str], None], first: str | None = None,
    ) -> None:
        self._store, self._server, self._leases, self._first = store, server, leases, first
        self._may_send, self._info = may_send, info
        self._store_id = store.identity()
        self.runs_sent = 0
        """Runs that the server has completely now, and had not."""
        self.progress = 0
        """Grows with all that is sent."""
        self._reported: set[str] = set()
        self._runs: dict[str, _Run] = {}
        self._jobs: dict[str, _Job] = {}
        self._ids: dict[str, str] = {}
        """MLflow's ids by uid, and by RUN/STAGE."""
        self._names: dict[str, str] = {}
        """What a user calls an MLflow run, by MLflow's id."""
        self._newest: dict[str, str] = {}
        """The id of the newest MLflow run of a job, by fingerprint; empty: the server has none."""
        self._ends: dict[str, tuple[str, float]] = {}
        """The status and the time with which a job's last run has ended it, by uid."""
        self._complete: set[str] | None = None
        self._client: Any = None

    def export(self) -> dict[str, bool]:
        """Send all that is new. Returns the runs that the server does not have completely, and
        whether their drivers are known to live.

        Raises what MLflow raises when there is no server, and UserError where a bucket is away;
        then the next call begins from what the server has.
        """
        try:
            if self._client is not self._server.client:  # the first, or of another data base
                self._forget()
            if self._complete is None:
                self._complete = self.find_complete()
            missing = {*self._store.objects.folders(f"{RUNS}/")} - self._complete
            names = sorted(missing, key=lambda name: (name != self._first, name))
            found = {name: self._export_run(name) for name in names}
            return {name: alive for name, alive in found.items() if alive is not None}
        except BaseException:
            self._forget()
            raise

    def _forget(self) -> None:
        for known in (self._runs, self._jobs, self._ids, self._newest, self._ends):
            known.clear()
        self._complete, self._client = None, self._server.client

    def find_complete(self) -> set[str]:
        """The runs that the server has completely, or had: some may have been deleted there. One
        that counted as dead, and has written more since, is not among them.
        """
        self._client = self._server.client
        filter_ = f"tags.gpt1.kind = 'workflow' AND tags.`{EXPORTED}` LIKE '%'"
        found = set()
        for run in self._search(filter_, deleted=True):
            name, size = run.data.tags["gpt1.run"], run.data.tags[EXPORTED]
            if size in (ALL, str(EventReader(self._store, f"{RUNS}/{name}").size())):
                found.add(name)
        return found

    def _export_run(self, name: str) -> bool | None:
        """Send what is new of a run: whether its driver lives; None when nothing more can come.

        What is wrong with one run must not hold up the others.
        """
        from mlflow.exceptions import MlflowException

        folder = f"{RUNS}/{name}"
        run = self._runs.setdefault(name, _Run(name, EventReader(self._store, folder, self._info)))
        if time.monotonic() < run.again:
            return False
        try:
            return self._send_run(run)
        except (MlflowException, NotAlone):
            raise
        except Exception as error:
            of_store = isinstance(error, UserError | OSError)
            if is_damage(error) or (of_store and not self._store.shared):
                raise
            for uid in run.open.values():
                self._jobs.pop(uid, None)
            again = time.monotonic() + AGAIN
            self._runs[name] = _Run(name, EventReader(self._store, folder), again=again)
            self._report(name, f"MLflow does not have all of run {name}: {brief(error)}")
            return False

    def _send_run(self, run: _Run) -> bool | None:
        # Before reading: who gives the lease back has written all.
        is_held = self._leases.is_held(f"{RUNS}/{run.name}")
        new = run.reader.read()
        self._may_send()
        for _, event in new:
            self._apply(run, event)
        for uid in run.open.values():
            self._send_points(self._jobs[uid])
        if run.end is None and is_held is not False:
            return bool(is_held)
        self._end_run(run)
        assert self._complete is not None
        self._complete.add(run.name)
        del self._runs[run.name]
        self.runs_sent += 1
        return None

    def _apply(self, run: _Run, event: events.Event) -> None:
        self.progress += 1
        if isinstance(event, events.RunStarted):
            run.profile = event.profile
            self._open(run.name, event.name, event.time, event.tags, event.params, None)
        elif run.name not in self._ids:  # its first line was damaged
            tags = {"gpt1.kind": "workflow", "gpt1.run": run.name}
            self._open(run.name, run.name, event.time, tags, {}, None)
        if isinstance(event, JobStarted | JobCached):
            run.jobs[event.cell] = event
        if isinstance(event, JobStarted):
            self._begin_job(run, event)
        elif isinstance(event, JobEnded):
            self._end_job(run, event.cell, event)
        elif isinstance(event, events.RunEnded):
            run.end = event

    # A job

    def _begin_job(self, run: _Run, event: JobStarted) -> None:
        uid, parent, stage = event.uid, run.name, event.group or event.cell
        if event.group:
            parent = f"{run.name}/{event.group}"
            if parent not in self._ids:
                tags = {"gpt1.kind": "matrix", "gpt1.stage": stage}
                self._open(parent, event.group, event.time, tags, {}, run.name)
        found = self._find(uid)
        if found and event.attempt in found.data.tags.get(EXPORTED, "").split():
            self._ids[uid] = self._newest[event.fingerprint] = found.info.run_id
            return
        tags = {
            "gpt1.kind": "job" if event.group else "stage", "gpt1.stage": stage,
            "gpt1.cell": event.cell, "gpt1.fingerprint": event.fingerprint, **event.tags,
        }  # fmt: skip
        run_id = self._open(uid, event.cell, event.time, tags, event.params, parent, found)
        self._newest[event.fingerprint] = run_id
        job = self._jobs.setdefault(uid, _Job(event, run_id))
        job.facts, job.run_id = event, run_id
        for name in found.data.metrics if found and not job.steps else ():
            points = self._client.get_metric_history(run_id, name)
            job.steps[name] = {point.step for point in points}
        folder = f"{event.folder}/{event.attempt}"
        job.readers[event.attempt] = EventReader(self._store, folder, self._info)
        run.open[event.cell] = uid
        job.runs.add(run.name)

    def _send_points(self, job: _Job) -> None:
        """Send the new points of a job."""
        points: list[Any] = []
        odd: dict[str, str] = {}
        for attempt in sorted(job.readers):
            for writer, event in job.readers[attempt].read():
                if not isinstance(event, Point):
                    continue
                for name, step, value in _curves(job.facts, event):
                    logged = job.values.setdefault((f"{attempt}/{writer}", name), {})
                    steps = job.steps.setdefault(name, set())
                    is_again = step in logged and not _is_same(logged[step], value)
                    if is_again or step not in steps:
                        points.append(_metric(name, value, event.time, step))
                    if not math.isfinite(value):
                        odd.setdefault(f"gpt1.not_finite.{name}", f"{value} at step {step}")
                    logged[step] = value
                    steps.add(step)
        if points:
            self._may_send()
            self.progress += len(points)
        self._log("points", job.run_id, "metrics", points)
        self._send_tags(job.run_id, odd)

    def _end_job(self, run: _Run, cell: str, event: JobEnded | None, when: float = 0.0) -> None:
        """End a job in a run. No event: the driver was killed, and `when` is its last sign."""
        uid = run.open.get(cell)
        if uid is None:
            return
        job = self._jobs[uid]
        self._send_points(job)
        record = self._read_record(job.facts)
        if record is not None:
            self._send_record(run, job, record)
            status, when = "FINISHED", record.finished
        elif event is not None:
            status, when = event.status, event.time
            self._send_tags(job.run_id, {"gpt1.error": event.error[:4000]} if event.error else {})
        else:  # another run may have taken it over, and ended it
            status, when = self._ends.get(uid, ("KILLED", when))
        del run.open[cell]
        job.runs.discard(run.name)
        if event is not None or record is not None:
            self._ends[uid] = status, when
        if not job.runs or event is not None or record is not None:
            self._terminate(job.run_id, status, when)
        if record is not None:
            self._send_tags(job.run_id, {EXPORTED: " ".join(sorted(job.readers))})
        if not job.runs:
            for reader in job.readers.values():
                reader.close()
            del self._jobs[uid]

    def _read_record(self, facts: JobFacts) -> ArtifactRecord | None:
        """What a job published, also where it was withdrawn since."""
        data = self._store.objects.read(f"{facts.folder}/{record_name(facts.withdrawn + 1)}")
        with suppress(UnreadableRecord):
            return ArtifactRecord.from_bytes(data or b"", facts.stage, facts.fingerprint)
        return None

    def _send_record(self, run: _Run, job: _Job, record: ArtifactRecord) -> None:
        """What a job made: its own small files as files, everything by reference."""
        address, server, run_id = self._store.objects.address, self._server, job.run_id
        params, metrics = split_summary(record.summary)
        figures = {**metrics, "seconds": record.seconds}
        new = {name: value for name, value in figures.items() if not job.steps.get(_name(name))}
        self._send_params(run_id, params)
        self._send_figures(run_id, new, record.finished)
        for file in record.files.values():
            if file.key.startswith(f"{job.facts.folder}/"):  # not those of its parts
                folder = f"outputs/{file.name}".rpartition("/")[0]
                if file.size <= UPLOAD_LIMIT:
                    self._try("files", run_id, self._send_file, run_id, file, folder)
                else:
                    about = {"uri": address(file.key), "size": file.size}
                    server.write_json(run_id, f"outputs/{file.name}.reference.json", about)
        server.write_json(run_id, record_name(1), record.model_dump(mode="json"))
        files = [
            {"name": f.name, "uri": address(f.key), "size": f.size, "sha256": f.sha256}
            for f in record.files.values()
        ]
        server.write_json(run_id, "artifacts.json", files)
        self._send_datasets(job, record)
        for model, name in record.summary.get(MODELS, {}).items():
            self._try("models", run_id, self._send_model, run, job, record, model, name)
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

        inputs: list[DatasetInput] = []

        def add(name: str, digest: str, source: str, context: str) -> None:
            kind = "s3" if source.startswith("s3:") else "local"
            place = json.dumps({"uri": source, "url": source})  # MLflow's pages read one, by kind
            dataset = Dataset(name[:500], digest[:32], kind, place)
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))

        kinds = record.identity.get("inputs", {}).items()
        stage_of = {print_: kind for kind, prints in kinds for print_ in prints}
        for name, print_ in sorted(record.inputs.items()):
            source = self._store.objects.address(f"{stage_of.get(print_, '')}/{print_}")
            add(name, record.input_digests[print_], source, record.stage)
        for name, sha256 in list(record.identity.get("files", {}).items())[:20]:
            add(name, sha256, f"source:{name}", "source")
        if inputs:
            self._try("data sets", job.run_id, self._client.log_inputs, job.run_id, inputs)

    def _send_model(
        self, run: _Run, job: _Job, record: ArtifactRecord, model: str, name: str
    ) -> None:
        artifact = record.artifact()
        folder = self._store.fetch_folder(artifact, artifact.under(f"{model}/")[0].name)
        fingerprint, aliases = f"{record.fingerprint}/{model}", [NEWEST, run.profile]
        training = self._training(record, model)
        register(self._server, job.run_id, name, folder, fingerprint, aliases, training)

    def _training(self, record: ArtifactRecord, model: str) -> Training | None:
        """The job that trained a model of an export; None where store or server lacks it."""
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

    def _end_run(self, run: _Run) -> None:
        """End a run, and what it left open: its driver was killed, or is about to be."""
        run.reader.close()
        if run.name not in self._ids:
            return  # it was killed before it had said anything
        last = run.reader.last
        for cell, uid in list(run.open.items()):
            last = max([last, *(reader.last for reader in self._jobs[uid].readers.values())])
            self._end_job(run, cell, None, last)
        status, when = (run.end.status, run.end.time) if run.end else ("KILLED", last)
        run_id = self._ids[run.name]
        self._find_newest({facts.fingerprint for facts in run.jobs.values()})
        started = [job for job in run.jobs.values() if isinstance(job, JobStarted)]
        groups = sorted({job.group for job in started if job.group})
        records = {
            cell: self._read_record(facts)
            for cell, facts in run.jobs.items()  # of the others the name is enough
            if isinstance(facts, JobStarted) or facts.group in groups or facts.is_last
        }
        for group in groups:
            group_id = self._ids[f"{run.name}/{group}"]
            self._send_note(group_id, *self._compare(run, group, records))
            self._terminate(group_id, status, when)
            self._send_tags(group_id, {EXPORTED: ALL})
        for cell, facts in run.jobs.items():
            if facts.is_last and (record := records[cell]):
                figures = split_summary(record.summary)[1]
                self._send_figures(run_id, figures, record.finished)
        self._send_note(run_id, *self._list_jobs(run, records))
        skipped = ", ".join(run.end.skipped)[:4000] if run.end else ""
        self._send_tags(run_id, {"gpt1.skipped": skipped} if skipped else {})
        self._terminate(run_id, status, when)
        self._send_tags(run_id, {EXPORTED: ALL if run.end else run.reader.size()})

    def _list_jobs(
        self, run: _Run, records: Mapping[str, ArtifactRecord | None]
    ) -> tuple[str, list[str], list[dict[str, Any]]]:
        """The jobs of a run that are done: head and rows of a table, and all that is in them."""
        rows, cells = [], []
        for cell, facts in run.jobs.items():
            found, record = self._run_of(facts.fingerprint), records.get(cell)
            seconds, maker = 0.0, ""
            if isinstance(facts, JobCached):
                how, maker = f"cached, from run `{facts.run}`", facts.run
            elif record is not None:
                how, seconds = f"ran in {span(record.seconds)}", record.seconds
            else:
                continue
            rows.append([link(cell, found), how])
            cells.append({"cell": cell, "run": found or maker, "seconds": seconds or None})
        return *table(["job", ""], rows), cells

    def _compare(
        self, run: _Run, group: str, records: Mapping[str, ArtifactRecord | None]
    ) -> tuple[str, list[str], list[dict[str, Any]]]:
        """The jobs of a matrix side by side: head and rows of a table, and all that is in them."""
        cells = [
            {"cell": cell, "axes": facts.axes, "figures": split_summary(record.summary)[1],
             "run": self._run_of(facts.fingerprint) or ""}
            for cell, facts in run.jobs.items()
            if facts.group == group and (record := records.get(cell))
        ]  # fmt: skip
        return *comparison(cells), cells

    def _send_note(self, run_id: str, head: str, rows: Sequence[str], cells: Sequence[Any]) -> None:
        """A table as the description of a run; all of it as a file where there is no room."""
        if rows:
            note, omitted = fit(head, rows, LONGEST_TAG)
            if omitted:
                self._server.write_json(run_id, CELLS, list(cells))
            self._send_tags(run_id, {NOTE: note})

    # MLflow's runs

    def _search(self, filter_: str, deleted: bool = False) -> list[Any]:
        """MLflow's runs of this store, oldest first."""
        from mlflow.entities import ViewType

        view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
        order = ["attributes.start_time ASC", "attributes.run_id ASC"]
        where = f"{filter_} AND tags.`{STORE_ID}` = '{self._store_id}'"
        found: list[Any] = []
        token = None
        while token != "":
            experiments = [self._server.experiment_id]
            page = self._client.search_runs(experiments, where, view, 1000, order, token)
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
        self, uid: str, name: str, when: float, tags: Mapping[str, Any],
        params: Mapping[str, Any], parent: str | None, found: Any | None = None,
    ) -> str:
        """Begin a run, or go on with it, under this parent; returns MLflow's id."""
        all_tags = {**_texts(tags, LONGEST_TAG), UID: uid_tag(uid), STORE_ID: self._store_id}
        if parent is not None:
            all_tags["mlflow.parentRunId"] = self._ids[parent]
        found = found or self._find(uid)
        if found is None:
            start, experiment = round(1000 * when), self._server.experiment_id
            run_id = self._client.create_run(experiment, start, all_tags, name).info.run_id
        else:
            run_id = found.info.run_id
            self._client.update_run(run_id, status="RUNNING", name=name)
            self._send_tags(run_id, all_tags)
        self._ids[uid], self._names[run_id] = run_id, name
        self._send_params(run_id, params, found.data.params if found else {})
        return str(run_id)

    def _run_of(self, fingerprint: str) -> str | None:
        """The id of the newest MLflow run of a job; None where the server has none."""
        if fingerprint not in self._newest:
            found = self._search(f"tags.gpt1.fingerprint = '{fingerprint}'")
            self._newest[fingerprint] = found[-1].info.run_id if found else ""
        return self._newest[fingerprint] or None

    def _find_newest(self, fingerprints: set[str]) -> None:
        """Look all of these up at once, where they are many."""
        if len(fingerprints - self._newest.keys()) > FEW:
            found = dict.fromkeys(fingerprints, "")
            for run in self._search("tags.gpt1.fingerprint LIKE '%'"):
                found[run.data.tags["gpt1.fingerprint"]] = run.info.run_id
            self._newest = {**found, **self._newest}

    def _send_params(
        self, run_id: str, values: Mapping[str, Any], there: Mapping[str, str] | None = None
    ) -> None:
        """Parameters; one that is `there` with another value cannot change, and becomes a tag."""
        from mlflow.entities import Param

        params = _texts(values, LONGEST_PARAM)
        if params and there is None:
            there = self._client.get_run(run_id).data.params
        there = there or {}
        new = [Param(name, value) for name, value in params.items() if name not in there]
        self._log("parameters", run_id, "params", new)
        changed = {k: value for k, value in params.items() if there.get(k, value) != value}
        self._send_tags(run_id, {f"gpt1.changed.{name}": value for name, value in changed.items()})

    def _send_figures(self, run_id: str, figures: Mapping[str, float], when: float) -> None:
        """Figures that are known once: points at step 0."""
        points = [_metric(_name(name), value, when, 0) for name, value in figures.items()]
        self._log("figures", run_id, "metrics", points)

    def _send_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        found = [RunTag(name, value) for name, value in _texts(tags, LONGEST_TAG).items()]
        self._log("tags", run_id, "tags", found)

    def _log(self, what: str, run_id: str, kind: str, items: list[Any]) -> None:
        """Send `metrics`, `params` or `tags`, as many in a request as MLflow takes."""
        most = 1000 if kind == "metrics" else 100
        for i in range(0, len(items), most):
            some = {kind: items[i : i + most]}
            self._try(what, run_id, self._client.log_batch, run_id, **some)

    def _terminate(self, run_id: str, status: str, when: float) -> None:
        self.progress += 1
        end = round(1000 * when)
        self._try("end", run_id, self._client.set_terminated, run_id, status, end)

    def _try(
        self, what: str, run_id: str, action: Callable[..., Any], *values: Any, **named: Any
    ) -> None:
        """What the server refuses for good, or is gone, is reported once and left out: it must not
        hold up what comes after it.
        """
        from mlflow.exceptions import MlflowException

        try:
            action(*values, **named)
        except (MlflowException, DamagedArtifact, LookupError, TypeError, ValueError) as error:
            is_refusal = not isinstance(error, MlflowException) or error.error_code in REFUSALS
            if not is_refusal or is_damage(error):
                raise
            name = self._names.get(run_id, run_id)
            self._report(f"{what} {run_id}", f"MLflow has no {what} of {name}: {brief(error)}")

    def _report(self, about: str, text: str) -> None:
        if about not in self._reported:
            self._reported.add(about)
            self._info(text)


def _metric(name: str, value: float, when: float, step: int) -> Any:
    """A point as MLflow has it: an infinity is drawn as NaN."""
    from mlflow.entities import Metric

    return Metric(name, value if math.isfinite(value) else math.nan, round(1000 * when), step)


def _curves(facts: JobFacts, point: Point) -> Iterator[tuple[str, int, float]]:
    """Name, step and value of each point; those of a pre-training over the tokens that were read,
    too.
    """
    for raw, value in point.values.items():
        name = metric_name(raw)
        yield _name(name), point.step, value
        if facts.tokens_per_step and name in CURVES_OVER_TOKENS:
            yield f"{OVER_TOKENS}/{name}", point.step * facts.tokens_per_step, value


def _is_same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def uid_tag(uid: str) -> str:
    """The value of the tag UID: MLflow's filters know no way to write a quotation mark."""
    return uid.replace("'", "%27")


def brief(error: BaseException) -> str:
    """An exception as part of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _name(text: str) -> str:
    """A name MLflow accepts: letters, digits and `_-. :/`, as a relative path."""
    steps = re.sub(r"[^\w\-. :/]", "_", text).split("/")
    return "/".join(step for step in steps if step not in ("", ".", ".."))[:LONGEST_NAME] or "_"


def _texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    return {_name(key): _cut(str(value), longest) for key, value in values.items()}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
