"""`gpt1 runs` and `gpt1 diff`: the runs of a store, and what differs between two of them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from gpt1.errors import UserError
from gpt1.format import counted, number, span
from gpt1.report.dag import stage_of
from gpt1.terminal import one_line, show
from gpt1.weights.manifest import ExportedJob, read_manifest
from pipeline.cli.options import Json, ReadOptions, StoreOption
from pipeline.cli.output import format_table, format_time, print_json
from pipeline.planning.last_run import RunArtifacts
from pipeline.planning.planner import changes
from pipeline.store.base import Store
from pipeline.store.lease import RUNS, Leases
from pipeline.store.record import ArtifactRecord
from pipeline.store.snapshot import StoreSnapshot
from pipeline.tracking import events

SAME = "same content"
ENDS = {"FINISHED": "done", "FAILED": "failed", "KILLED": "stopped"}
ALIVE = {True: "running", False: "killed", None: "unknown"}
"""By whether the driver of a run without an end is alive; None: it is on another host."""
FIGURES = {
    "ingest": {"books": "books", "words": "words"},
    "clean": {"books": "books", "words": "words"},
    "split": {"held_out_books": "held-out books"},
    "vocabulary": {"vocabulary": "tokens"},
    "shard": {"train_tokens": "training tokens"},
    "pretrain": {"validation_perplexity": "held-out perplexity"},
}
"""By kind of stage: the figures of its summary that matter most, and what people call them."""


@dataclass(frozen=True)
class RunSummary:
    """A run. `started`: seconds since 1970; `profile`: the workflow's name where there is none;
    `seconds`: up to now while it is running, else up to its end, or what it did last.
    """

    run: str
    started: float
    profile: str
    overrides: tuple[str, ...]
    status: str
    seconds: float
    figures: Mapping[str, float]


def runs(store: StoreOption = "store", as_json: Json = False) -> None:
    """List the runs of a store, newest last: start, profile, status, duration, figures, `--set`.

    Status: done, failed, stopped, running, killed (its end is not recorded), or unknown (running or
    killed, on another host). A run that found everything up to date is not listed.
    """
    opened = Store.existing(store)
    names = opened.objects.folders(f"{RUNS}/")
    logs = zip(names, opened.all(partial(_events, opened), names), strict=True)
    snapshot, leases = StoreSnapshot(opened), Leases(opened, "runs")
    found = [_summarize(name, log, snapshot, leases) for name, log in logs if log]
    found.sort(key=lambda run: run.started)
    if as_json:
        print_json([asdict(run) for run in found])
        return
    if not found:
        show(f"{opened.where}: no runs recorded; start one with `gpt1 run`")
        return
    rows = [("run", "started", "profile", "status", "took", "figures", "--set")]
    for run in found:
        profile, overrides = one_line(run.profile), one_line(shlex.join(run.overrides))
        when, took = format_time(run.started), span(run.seconds)
        figures = format_figures(run.figures)
        rows.append((run.run, when, profile, run.status, took, figures, overrides))
    show(format_table(rows))


def headline(record: ArtifactRecord) -> dict[str, float]:
    """The figures of a job that matter most, by what people call them: those of FIGURES; of what is
    scored its main metric; of a stage of the user's the first number of its summary.
    """
    summary, names = record.summary, FIGURES.get(record.stage, {})
    if isinstance(metric := summary.get("metric"), str):
        names = {metric: metric}
    elif "." in record.stage:
        numbers = (name for name, value in summary.items() if type(value) in (int, float))
        if first := next(numbers, None):
            names = {first: first}
    return {shown: summary[name] for name, shown in names.items() if summary.get(name) is not None}


def format_figures(figures: Mapping[str, float]) -> str:
    """On one line."""
    return ", ".join(f"{name} {number(value)}" for name, value in figures.items())


def _events(store: Store, run: str) -> list[events.Event]:
    return [logged.event for logged in events.EventReader(store, f"{RUNS}/{run}").read()]


def _summarize(
    name: str, log: Sequence[events.Event], snapshot: StoreSnapshot, leases: Leases
) -> RunSummary:
    start = next((event for event in log if isinstance(event, events.RunStarted)), None)
    end = next((event for event in log if isinstance(event, events.RunEnded)), None)
    ended = [event for event in log if isinstance(event, events.JobEnded)]
    done = {event.cell for event in ended if event.status == "FINISHED"}
    done |= {event.cell for event in log if isinstance(event, events.JobCached)}
    facts = [event for event in log if isinstance(event, events.JobFacts)]
    jobs = {event.cell: event for event in facts if event.cell in done}
    status = ENDS[end.status] if end else ALIVE[leases.is_held(f"{RUNS}/{name}")]
    until = time.time() if status == "running" else log[-1].time
    found = [snapshot.last_record(job.stage, job.fingerprint).record for job in jobs.values()]
    return RunSummary(
        run=name, started=log[0].time, profile=start.profile if start else "",
        overrides=start.assignments if start else (), status=status, seconds=until - log[0].time,
        figures=run_figures([record for record in found if record]),
    )  # fmt: skip


def run_figures(records: Sequence[ArtifactRecord]) -> dict[str, float]:
    """Held-out perplexity, and the mean score of the fine-tuned tasks, each the mean of its seeds;
    of a run with neither the figures of its last job that has any.
    """
    found: dict[str, float] = {}
    scores: dict[str, list[float]] = {}
    for record in records:
        figures = headline(record)
        if record.stage == "pretrain":
            axes = record.cell.removeprefix(stage_of(record.cell))
            found |= {f"{name}{axes}": value for name, value in figures.items()}
        elif (
            record.stage == "finetune" and record.summary.get("variant") == "full"
            and record.settings.get("model", "gpt") == "gpt"
        ):  # fmt: skip
            scores.setdefault(record.settings["task"], []).extend(figures.values())
    if scores:
        found |= {"mean score": fmean(map(fmean, scores.values())), "tasks": len(scores)}
    return found or next(filter(None, map(headline, reversed(records))), {})


# What differs


def diff(
    before: str | None = None, after: str | None = None, /, export: Path | None = None, *,
    options: ReadOptions, as_json: Json = False,
) -> None:
    """Compare two runs job by job, or two jobs of the last run, or an export with the last run:
    what differs in settings, inputs, code, figures, and time.

    A run covers the jobs it ran and the cached jobs they depend on. With an export, each job is
    listed, and each source file that is not the same.

    Args:
        before: Run, by name or prefix, or job; default: the newest other run with the same stages.
        after: Run or job to compare it with; default: the last, or the jobs of --profile and --set.
        export (--with): Folder written by `gpt1 export hf`.
    """
    if export is not None:
        if before:
            raise UserError(f"diff: found --with and {before}; give one or the other")
        found = _compare_export(export, options.artifacts())
    elif before and before[0].isalpha():  # names of runs begin with the date
        found = _compare_jobs(before, after, options.artifacts())
    else:
        found = _compare_runs(before, after, options)
    if as_json:
        print_json(found)
    elif found["before"] is None:
        nothing = "so there is nothing to compare"
        show(f"{found['after']}: no other run in the store has the same stages, {nothing}")
    else:
        show(f"{found['before']} -> {found['after']}")
        for row in found["cells"]:
            how = "" if row["changes"] and export is None else f": {row['how']}"
            show("\n    ".join(map(one_line, [f"{row['cell']}{how}", *row["changes"]])))
        if not found["cells"]:
            show("no differences")
        if export is not None:
            same = sum(row["how"] == SAME for row in found["cells"])
            show(f"{same} of {counted(len(found['cells']), 'job')} have the content of the export")


def _compare_export(export: Path, artifacts: RunArtifacts) -> dict[str, Any]:
    """The jobs of an export, each with that of the run whose place it has."""
    manifest, rows = read_manifest(export), list[dict[str, Any]]()
    if not manifest.jobs:
        problem = "its model was exported without the records of the jobs that made it"
        raise UserError(f"{export}: {problem}; expected an export with them")
    for job in manifest.jobs:
        cell = _counterpart(job, artifacts)
        if (new := artifacts.record(cell) if cell else None) is None:
            how = "not done" if cell else "no such job in this run"
            rows.append({"cell": cell or job.name, "how": how, "changes": []})
            continue
        files = new.identity["files"]
        lines = _source_changes(job.identity.get("files", {}), files)
        known = job.model_dump(include={*ArtifactRecord.model_fields})
        known["identity"]["files"] = files  # whose changes are said in full
        old = ArtifactRecord(**known, attempt="", files={})
        names = sorted({*old.packages, *new.packages}) if old.digest != new.digest else ()
        packages = (_change(name, old.packages.get(name), new.packages.get(name)) for name in names)
        lines += [*_differences(old, new), *filter(None, packages)]
        how = SAME if old.digest == new.digest else "other content"
        rows.append({"cell": new.cell, "how": how, "changes": lines})
    return {"before": str(export), "after": artifacts.name, "cells": rows}


def _counterpart(job: ExportedJob, artifacts: RunArtifacts) -> str | None:
    """The job of a run with the same fingerprint, else of the same name, else the only one of its
    stage.
    """
    among = artifacts.of_kind([job.stage])
    place = f"{job.stage}/{job.fingerprint}"
    fits = (
        [cell for cell in among if artifacts.cells[cell] == place]
        or [cell for cell in among if cell in (job.cell, job.name)]
        or among
    )
    return fits[0] if len(fits) == 1 else None


def _source_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """A line for each source file that is not the same."""

    def digest(files: Mapping[str, str], name: str) -> str:
        return f"sha256 {files[name]}" if name in files else "no such file"

    return [
        f"file {name}: expected {digest(old, name)}, found {digest(new, name)}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _compare_jobs(before: str, after: str | None, artifacts: RunArtifacts) -> dict[str, Any]:
    if not after or not after[0].isalpha():
        found = f"{before} is a job, {after or 'the last run'} is not"
        raise UserError(f"diff: {found}; expected two runs, or two jobs")
    kinds = {place.rpartition("/")[0] for place in artifacts.cells.values()}
    old, new = (artifacts.choose(name, kinds) for name in (before, after))
    if old.stage != new.stage:
        uses = f"{old.cell} uses {old.stage}, {new.cell} uses {new.stage}"
        raise UserError(f"diff: {uses}; expected two jobs of one kind of stage")
    rows = _compare({new.cell: old}, {new.cell: new})
    return {"before": old.cell, "after": new.cell, "cells": rows}


def _compare_runs(before: str | None, after: str | None, options: ReadOptions) -> dict[str, Any]:
    history = StoreSnapshot(Store.existing(options.store)).history()
    records = sorted(history, key=lambda record: record.finished)
    names = sorted({record.run for record in records if record.run})
    new: Mapping[str, ArtifactRecord]
    if after is None:
        artifacts = options.artifacts()
        new = {cell: record for cell in artifacts.cells if (record := artifacts.record(cell))}
        if not new:
            advice = f"give two of these runs: {_newest(names)}"
            raise UserError(f"diff: no job of {artifacts.name} is done; {advice}")
        second = max(new.values(), key=lambda record: record.finished).run
    elif options.chooses:
        found = "a second run and --file, --profile, or --set"
        raise UserError(f"diff: found {found}; give one or the other")
    else:
        second = _run_called(after, names)
        new = jobs_of_run(second, records)
    first = _run_called(before, names) if before else _run_like(new, second, names, records)
    old = jobs_of_run(first, records) if first else {}
    if before is None:  # the other run may have had more stages
        old = {cell: record for cell, record in old.items() if _stages([cell]) <= _stages(new)}
    if first and not old.keys() & new.keys():
        advice = f"expected two of these runs with the same stages: {_newest(names)}"
        raise UserError(f"diff: {first} and {second} have no job in common; {advice}")
    return {"before": first, "after": second, "cells": _compare(old, new) if first else []}


def _compare(
    before: Mapping[str, ArtifactRecord], after: Mapping[str, ArtifactRecord]
) -> list[dict[str, Any]]:
    """A row for each job that differs. `how`: changed, or only in one of the runs; `changes`: in
    words, settings and inputs before figures.
    """
    rows: list[dict[str, Any]] = []
    for cell in sorted({*before, *after}):
        old, new = before.get(cell), after.get(cell)
        if old and new:
            how, lines = "changed", _differences(old, new)
        else:
            how, lines = f"only in the {'first' if old else 'second'} run", []
        if lines or not (old and new):
            rows.append({"cell": cell, "how": how, "changes": lines})
    return rows


def _differences(old: ArtifactRecord, new: ArtifactRecord) -> list[str]:
    lines = changes(old.identity, new.identity)
    if old.code != new.code:
        is_known = old.git_commit != new.git_commit
        lines.append(f"code: {old.git_commit} -> {new.git_commit}" if is_known else "code changed")
    if old.digest != new.digest:
        names = sorted({*old.summary, *new.summary})
        figures = [_change(name, old.summary.get(name), new.summary.get(name)) for name in names]
        lines = [*lines, *filter(None, figures)] or ["content changed"]
    if lines and (took := _change("took", span(old.seconds), span(new.seconds))):
        lines.append(took)
    return lines


def _change(name: str, old: Any, new: Any) -> str | None:
    """None where both read alike, and for tables."""
    if isinstance(old, dict | list) or isinstance(new, dict | list) or number(old) == number(new):
        return None
    return f"{name}: {number(old)} -> {number(new)}"


def jobs_of_run(run: str, records: Sequence[ArtifactRecord]) -> dict[str, ArtifactRecord]:
    """What `run` made, and everything that was made from, by cell; of `records`, oldest first."""
    by_fingerprint: dict[str, list[ArtifactRecord]] = {}
    for record in records:
        by_fingerprint.setdefault(record.fingerprint, []).append(record)
    jobs = {record.cell: record for record in records if record.run == run}
    waiting = list(jobs.values())
    while waiting:
        record = waiting.pop()
        for cell, fingerprint in record.inputs.items():
            if cell not in jobs and fingerprint in by_fingerprint:
                makings, digest = by_fingerprint[fingerprint], record.input_digests.get(fingerprint)
                same = [making for making in makings if making.digest == digest]
                jobs[cell] = (same or makings)[-1]
                waiting.append(jobs[cell])
    return jobs


def _run_called(wanted: str, names: Sequence[str]) -> str:
    """The run of this name, or with a name that begins so."""
    fits = [name for name in names if name == wanted]
    fits = fits or [name for name in names if name.startswith(wanted)]
    if len(fits) == 1:
        return fits[0]
    problem = "matches several runs" if fits else "no run of this name has finished a job"
    raise UserError(f"{wanted}: {problem}; expected one of: {_newest(names)}")


def _run_like(
    jobs: Mapping[str, ArtifactRecord], run: str, names: Sequence[str],
    records: Sequence[ArtifactRecord],
) -> str | None:
    """The newest other run that has all stages of these `jobs` of `run`; None: there is none."""
    stages, others = _stages(jobs), [name for name in reversed(names) if name != run]
    fits = (name for name in others if stages <= _stages(jobs_of_run(name, records)))
    return next(fits, None)


def _stages(cells: Iterable[str]) -> set[str]:
    return set(map(stage_of, cells))


def _newest(names: Sequence[str]) -> str:
    return ", ".join(names[-8:]) or "none"
