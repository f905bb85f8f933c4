"""The command `gpt1`."""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import shlex
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt1.errors import UserError
from gpt1.wording import span
from pipeline.cli import diff, doctor, jobs, streams
from pipeline.cli import help_panels as panels
from pipeline.cli import models as model
from pipeline.cli import tasks as task_commands
from pipeline.cli.describe import describe
from pipeline.cli.init import init
from pipeline.cli.options import (
    Assignments,
    FileToRead,
    Json,
    Profile,
    RunOptions,
    Stages,
    StoreOption,
    flag,
    read_workflow,
    run_command,
    store_words,
    takes_run_options,
)
from pipeline.cli.pack import pack
from pipeline.cli.path import path
from pipeline.cli.trace import trace
from pipeline.cli.verify import gc, verify
from pipeline.execution.addresses import without_password
from pipeline.execution.ray_access import prepare, set_environment
from pipeline.execution.shutdown import GracefulShutdown, Interrupted
from pipeline.planning.last_run import remember
from pipeline.planning.planner import Entry, Plan, Selection, State, make_plan
from pipeline.store.base import Store
from pipeline.store.lease import HeldError
from pipeline.store.record import DamagedArtifact
from pipeline.workflow.user_code import ROOT

FAILED, INVALID, HELD, INTERRUPTED = 1, 2, 3, 130
REPORT = "report.html"

app = typer.Typer(
    help="GPT-1, from raw books to the paper's table: run the workflow, see what ran and why,"
    " browse the results, use the models.",
    no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, epilog=panels.EPILOG,
)  # fmt: skip
track = typer.Typer(help="Send pending MLflow records.", no_args_is_help=True)
app.add_typer(track, name="track")
for command in (trace, describe, verify, gc, pack, path, diff.diff, doctor.doctor, init):
    app.command()(command)
task_commands.add(app)

CLUSTER = "Ray cluster to use: HOST:PORT or auto; default: start one on this machine."
Address = Annotated[str | None, typer.Option("--address", help=CLUSTER, envvar="RAY_ADDRESS")]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from pipeline.planning.provenance import git_commit

        commit = f", commit {found}" if (found := git_commit()) else ""
        print(f"gpt1 {version('gpt1')}{commit}, Python {platform.python_version()}")
        raise typer.Exit


VERSION = typer.Option(
    "--version", callback=_print_version, is_eager=True, metavar="",
    help="Print version, commit, and Python.",
)  # fmt: skip


@app.callback()
def _options(version: Annotated[bool, VERSION] = False) -> None:
    """What `gpt1` itself takes."""


@app.command()
@takes_run_options
def run(options: RunOptions, address: Address = None) -> None:
    """Run every stage that is missing or out of date.

    Exit status: 0 success, 1 a stage failed, 2 invalid input or settings, 3 locked by another run,
    130 interrupted.
    """
    with GracefulShutdown() as shutdown:  # before any thread is started
        status = _plan_and_run(options, address, shutdown)
    raise typer.Exit(status)


def _plan_and_run(options: RunOptions, address: str | None, shutdown: GracefulShutdown) -> int:
    if not options.dry_run:
        set_environment(address)
    limit = options.repair_seconds
    plan = make_plan(options.read(), Store.at(options.store), options.selection())
    if not options.dry_run:
        _check_report(plan, options)
    if options.dry_run:
        _print_plan(plan)
        return 0
    if not plan.to_run:
        with suppress(OSError):  # a store that is read only has all one asked for
            remember(plan)
        _print_done(plan)
        return 0
    return _run(plan, prepare(address), limit, shutdown)


def _check_report(plan: Plan, options: RunOptions) -> None:
    """A report that is shown as it is, and is damaged, is made again."""
    for entry in plan.entries.values():
        names = {entry.cell.id, entry.cell.node}
        asked = names & {*(options.stages or ())} or not (options.stages or options.start)
        if asked and entry.cell.uses == "report" and entry.state is State.DONE and entry.artifact:
            try:
                plan.store.fetch(entry.artifact.file(REPORT))
            except DamagedArtifact as damage:
                entry.state, entry.reasons, entry.run = State.STALE, [str(damage)], True
                entry.damaged = damage.keys


def _run(
    plan: Plan, address: str | None, repair_limit: float, shutdown: GracefulShutdown
) -> int:
    from pipeline.cli.progress import Display
    from pipeline.execution.cluster import ClusterLostError, RayCluster
    from pipeline.execution.executor import Runner

    streams.make_lossy()
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    display = Display(len(plan.entries))
    began = time.monotonic()
    try:
        cluster = RayCluster(address, plan.workflow.user_code)
        outcome = Runner(plan, name, cluster, display, shutdown, repair_limit).run()
    except Interrupted:
        print("gpt1: interrupted; run the same command to resume", file=sys.stderr)
        return INTERRUPTED
    except ClusterLostError as lost:
        print(f"gpt1: {lost}", file=sys.stderr)
        return FAILED
    finally:
        display.close()
    report = _link_report(plan, {*outcome.made, *outcome.cached})
    took = time.monotonic() - began
    print(
        f"{len(outcome.made)} ran, {len(outcome.cached)} cached, {len(outcome.failed)} failed,"
        f" {len(outcome.skipped)} skipped ({span(took)})"
    )
    for cell, error in outcome.failed.items():
        print(f"{cell}: {error}", file=sys.stderr)
    if outcome.status == 0:
        _print_places(plan, report)
    return outcome.status


def _link_report(plan: Plan, done: Collection[str]) -> str:
    """Let STORE/report.html show this plan's report, if it is `done`; returns what to say of it."""
    line, store = "", plan.store
    for cell, entry in plan.entries.items():
        if entry.cell.uses != "report":
            continue
        artifact = store.artifact(entry.cell.uses, entry.fingerprint) if cell in done else None
        if artifact is not None and REPORT in artifact.files:
            store.show(artifact.files[REPORT], REPORT)
            line = f"report: {store.shown(REPORT)}"
        elif shown := store.shown(REPORT):
            line = f"{shown} is stale; update it with: {run_command(plan.workflow, store, cell)}"
    return line


def _print_places(plan: Plan, report: str) -> None:
    if report:
        print(report)
    server = os.environ.get("MLFLOW_TRACKING_URI")
    here = shlex.join(["gpt1", "ui", *store_words(plan.store)])
    print(f"browse the runs: {without_password(server) if server else here}")


def _print_done(plan: Plan) -> None:
    for entry in plan.entries.values():
        for note in entry.notes:
            print(f"{entry.cell.id}: {note}")
    done = [cell for cell, entry in plan.entries.items() if entry.state is State.DONE]
    report = _link_report(plan, done)
    of_all = f"{len(done)} of {len(plan.entries)} jobs done"
    print(f"everything is up to date: {of_all}, nothing to run")
    _print_places(plan, report)


@app.command()
def plan(
    stages: Stages = None, file: FileToRead = None, profile: Profile = None,
    assignments: Assignments = None, store: StoreOption = "store", as_json: Json = False,
) -> None:
    """Show what `run` would run, and why, without running anything."""
    workflow = read_workflow(file, profile, assignments, store)
    made = make_plan(workflow, Store.at(store), Selection(tuple(stages or ())))
    _print_json(made) if as_json else _print_plan(made)


@app.command()
def status(
    file: FileToRead = None,
    profile: Profile = None,
    assignments: Assignments = None,
    store: StoreOption = "store",
    as_json: Json = False,
    explain: Annotated[
        bool, flag("--explain", "Show each reason on its own line, and each job's rerun cost.")
    ] = False,
) -> None:
    """Show each stage's state (done, stale, partial, stopped, failed, or new), why, and how long
    it took."""
    made = make_plan(read_workflow(file, profile, assignments, store), Store.at(store))
    if explain and not as_json:
        from pipeline.planning.cost import explained

        print("\n".join(explained(made)))
        return
    _print_json(made) if as_json else _print_plan(made, everything=True)


def _print_plan(plan: Plan, everything: bool = False) -> None:
    width = max(len(cell) for cell in plan.entries)
    for cell, entry in plan.entries.items():
        if everything or entry.run or entry.notes:
            print(f"{cell:<{width}}  {entry.state:<9}  {_why(entry)}".rstrip())
    waiting = plan.to_run
    known = [entry.cost for entry in waiting if entry.cost is not None]
    cost = f"; {len(known)} of them took {span(sum(known))} last time" if known else ""
    print(
        f"{len(waiting)} of {len(plan.entries)} jobs to run{cost}"
        if waiting
        else "everything is up to date, nothing to run"
    )


def _why(entry: Entry) -> str:
    cost = f" (took {span(entry.cost)})" if entry.cost is not None else ""
    return (
        "; ".join(reason for reason in [*entry.reasons, *entry.notes] if reason != entry.state)
        + cost
    )


def _print_json(plan: Plan) -> None:
    cells = [
        {
            "cell": entry.cell.id, "stage": entry.cell.uses, "state": str(entry.state),
            "run": entry.run, "reasons": entry.reasons,
            "notes": entry.notes, "fingerprint": entry.fingerprint, "seconds": entry.cost,
            "digest": entry.artifact.digest if entry.artifact else None, "needs": entry.cell.needs,
        }
        for entry in plan.entries.values()
    ]  # fmt: skip
    print(
        json.dumps(
            {"workflow": plan.workflow.name, "profile": plan.workflow.profile, "cells": cells},
            indent=1,
        )
    )


@app.command()
def graph(
    file: FileToRead = None, profile: Profile = None, assignments: Assignments = None,
    store: StoreOption = "store",
    svg: Annotated[Path | None, typer.Option("--svg", help="Write an SVG to this file.")] = None,
    mermaid: Annotated[bool, flag("--mermaid", "Print Mermaid source.")] = False,
) -> None:
    """Draw the workflow with the state of each stage."""
    from pipeline.cli import graph as drawing

    made = make_plan(read_workflow(file, profile, assignments, store), Store.at(store))
    cells: list[Any] = [
        (entry.cell.id, str(entry.state), entry.cell.needs) for entry in made.entries.values()
    ]
    if svg is not None:
        svg.write_text(drawing.as_svg(cells, _costs(made)), encoding="utf-8")
        print(f"wrote {svg}")
        return
    print(drawing.as_mermaid(cells) if mermaid else drawing.as_text(cells), end="")


def _costs(plan: Plan) -> dict[str, list[str]]:
    """What making each stage's cells took, in words, by stage."""
    found: dict[str, list[float]] = {}
    for entry in plan.entries.values():
        found.setdefault(entry.cell.node, []).append(entry.cost or 0.0)
    return {stage: [span(sum(seconds))] if any(seconds) else [] for stage, seconds in found.items()}


@app.command()
def ui(
    store: StoreOption = "store",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Browse the store's runs in MLflow, until interrupted."""
    from pipeline.cli.ui import serve

    serve(Store.at(store).root, host, port)


@track.command("sync")
def track_sync(store: StoreOption = "store") -> None:
    """Send the records that the MLflow server has not acknowledged yet."""
    from pipeline.tracking.tracker import sync

    synced = sync(Store.existing(store), info=lambda line: print(f"gpt1: {line}", file=sys.stderr))
    print(
        f"{synced.sent} records sent, {synced.left} left"
        + (f": {synced.trouble}" if synced.trouble else "")
    )
    raise typer.Exit(int(synced.left > 0))


model.add_to(app)
jobs.add_to(app)
panels.arrange(app)


def _leave_working_directory() -> None:
    """Take the working directory off `sys.path`, where any folder in it would answer for a package
    of its name.

    It is there by `python -m`, and by an empty entry of PYTHONPATH (`$PYTHONPATH:/more`), which
    workers would inherit.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    named = [entry for entry in given if entry]
    if named != given != [""]:
        os.environ["PYTHONPATH"] = os.pathsep.join(named)
    here = str(Path.cwd())
    if here not in {str(ROOT), *map(os.path.abspath, named)}:
        sys.path[:] = [entry for entry in sys.path if entry not in ("", here)]


def main() -> None:
    """Run the command; a user's error is one line and exit status 2, a held store 3."""
    _leave_working_directory()
    streams.open_closed()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except UserError as error:
        print(f"gpt1: {error}", file=sys.stderr)
        raise SystemExit(INVALID) from None
    except HeldError as error:
        print(f"gpt1: {error}", file=sys.stderr)
        raise SystemExit(HELD) from None
    except OSError as error:
        raise SystemExit(_report(error)) from None


def _report(error: OSError) -> int:
    """Say that a path is of no use, or that there is no room to write; the exit status. Raises
    other errors.
    """
    if error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO):
        streams.discard(sys.stdout)  # which may be what cannot be written
        if error.errno != errno.EPIPE:
            print(f"gpt1: a write failed: {error.strerror}; free some space", file=sys.stderr)
        return FAILED
    known = (errno.ENAMETOOLONG, errno.EACCES, errno.EROFS, errno.ENOSPC)
    if error.errno not in known or error.filename is None:
        raise error
    print(f"gpt1: {error.filename}: {error.strerror}; use another path", file=sys.stderr)
    return INVALID
