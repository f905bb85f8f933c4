"""The command `gpt1`."""

from __future__ import annotations

import errno
import os
import platform
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from gpt1.errors import UserError
from gpt1.format import span
from gpt1.terminal import show
from pipeline.cli import inspect, jobs, models, output, runs, tasks
from pipeline.cli.doctor import doctor
from pipeline.cli.init import init, schema
from pipeline.cli.inspect import print_plan
from pipeline.cli.lineage import trace
from pipeline.cli.options import RunOptions, StoreOption, run_command, store_words, with_options
from pipeline.cli.pack import pack
from pipeline.cli.verify import gc, verify
from pipeline.execution.ray_access import prepare, set_environment, without_password
from pipeline.execution.shutdown import (
    FAILED,
    HELD,
    INTERRUPTED,
    INVALID,
    GracefulShutdown,
    Interrupted,
)
from pipeline.planning.last_run import remember
from pipeline.planning.planner import Plan, State, make_plan
from pipeline.store.base import Store
from pipeline.store.lease import HeldError
from pipeline.store.record import DamagedArtifact
from pipeline.workflow.user_code import ROOT

REPORT = "report.html"

EPILOG = """First steps: `gpt1 doctor` checks this machine; `gpt1 run --profile demo` runs a \
small version of everything, in minutes;
`gpt1 status --explain` shows each stage's state and why; `gpt1 ui` shows the runs in MLflow.

Commands that read the workflow take --profile, --set stage.key=value, --file, and --store \
(or GPT1_STORE).
Without the first three, read-only commands use those of the store's last run, and say so.
`gpt1 run` resumes where it stopped; its --help lists the exit statuses.

`gpt1 COMMAND --help` shows details; `gpt1 --version` shows the commit; `gpt1 --install-completion`
sets up shell completion. docs/README.md lists the documentation."""

app = typer.Typer(
    help="GPT-1, from raw books to the paper's table: run the workflow, see what ran and why,"
    " browse the results, use the models.",
    no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, epilog=EPILOG,
)  # fmt: skip

CLUSTER = "Ray cluster to use: HOST:PORT or auto; default: start one on this machine."
Address = Annotated[str | None, typer.Option("--address", help=CLUSTER, envvar="RAY_ADDRESS")]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from pipeline.planning.provenance import git_commit

        commit = f", commit {found}" if (found := git_commit()) else ""
        show(f"gpt1 {version('gpt1')}{commit}, Python {platform.python_version()}")
        raise typer.Exit


VERSION = typer.Option(
    "--version", callback=_print_version, is_eager=True, metavar="",
    help="Print version, commit, and Python.",
)  # fmt: skip


@app.callback()
def _options(version: Annotated[bool, VERSION] = False) -> None:
    """What `gpt1` itself takes."""


def run(options: RunOptions, address: Address = None) -> None:
    """Run every stage that is missing or out of date.

    Exit status: 0 success, 1 a stage failed, 2 invalid input or settings, 3 locked by another run,
    130 interrupted (while planning: 128 + the signal's number).
    """
    with GracefulShutdown() as shutdown:  # before any thread is started
        status = _plan_and_run(options, address, shutdown)
    raise typer.Exit(status)


def _plan_and_run(options: RunOptions, address: str | None, shutdown: GracefulShutdown) -> int:
    if not options.dry_run:
        set_environment(address)
    limit = options.repair_seconds
    plan = make_plan(options.read(), Store.at(options.store), options.selection())
    if options.dry_run:
        print_plan(plan)
        return 0
    _check_report(plan, options)
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


def _run(plan: Plan, address: str | None, repair_limit: float, shutdown: GracefulShutdown) -> int:
    from pipeline.cli.progress import Display, RunProgress
    from pipeline.execution.cluster import ClusterLostError, RayCluster
    from pipeline.execution.executor import Executor
    from pipeline.tracking.run_tree import RunLog

    output.make_lossy()
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    cluster = RayCluster(address, plan.workflow.user_code)
    display = Display(len(plan.entries))
    began = time.monotonic()
    try:
        note = partial(display.line, plan.workflow.name)
        observers = (RunProgress(display), RunLog(note, lambda: shutdown.forced))
        outcome = Executor(plan, name, cluster, observers, shutdown, repair_limit).run()
    except Interrupted:
        show("gpt1: interrupted; run the same command to resume", error=True)
        cluster.exit_status = INTERRUPTED
        return INTERRUPTED
    except ClusterLostError as lost:
        show(f"gpt1: {lost}", error=True)
        return FAILED
    except (UserError, HeldError) as refusal:
        cluster.exit_status = HELD if isinstance(refusal, HeldError) else INVALID
        raise
    finally:
        display.close()
    cluster.exit_status = outcome.status
    report = _show_report(plan, {*outcome.ran, *outcome.cached})
    ends = ("ran", "cached", "failed", "skipped")
    counts = ", ".join(f"{len(getattr(outcome, how))} {how}" for how in ends)
    show(f"{counts} ({span(time.monotonic() - began)})")
    for cell, error in outcome.failed.items():
        show(f"{cell}: {error}", error=True)
    if outcome.status == 0:
        _print_places(plan, report)
    return outcome.status


def _show_report(plan: Plan, done: Collection[str]) -> str:
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
        show(report)
    server = os.environ.get("MLFLOW_TRACKING_URI")
    here = shlex.join(["gpt1", "ui", *store_words(plan.store)])
    show(f"browse the runs: {without_password(server) if server else here}")


def _print_done(plan: Plan) -> None:
    for entry in plan.entries.values():
        for note in entry.notes:
            show(f"{entry.cell.id}: {note}")
    done = [cell for cell, entry in plan.entries.items() if entry.state is State.DONE]
    report, of_all = _show_report(plan, done), f"{len(done)} of {len(plan.entries)} jobs done"
    show(f"everything is up to date: {of_all}, nothing to run")
    _print_places(plan, report)


def ui(store: StoreOption = "store", host: str = "127.0.0.1", port: int = 5000) -> None:
    """Browse the store's runs in MLflow, until interrupted.

    Args:
        host: Address to listen on.
        port: Port to listen on.
    """
    from pipeline.cli.ui import serve

    serve(Store.existing(store), host, port)


def track_sync(store: StoreOption = "store") -> None:
    """Send MLflow all runs that it does not have completely, such as those of another server."""
    from pipeline.tracking.live_export import sync

    synced = sync(Store.existing(store), info=lambda line: show(f"gpt1: {line}", error=True))
    missing = "some" if synced.missing is None else synced.missing
    lack = f"{missing} missing: {synced.trouble}" if synced.trouble else "none missing"
    show(f"{synced.sent} runs sent, {lack}")
    raise typer.Exit(int(bool(synced.trouble)))


COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Run the workflow": {
        "run": run, "plan": inspect.plan, "submit": jobs.submit, "jobs": jobs.jobs,
        "logs": jobs.logs, "stop": jobs.stop, "pack": pack,
    },
    "Inspect it": {
        "status": inspect.status, "graph": inspect.graph, "path": inspect.path,
        "runs": runs.runs, "diff": runs.diff, "trace": trace, "describe": inspect.describe,
        "verify": verify, "ui": ui, "track sync": track_sync,
    },
    "Use the models": {
        "generate": models.generate, "predict": models.predict, "perplexity": models.perplexity,
        "import openai": models.import_openai, "import hf": models.import_hf,
        "export hf": models.export_hf, "export openai": models.export_openai,
        "export mlflow": models.export_mlflow,
    },
    "Set up": {
        "init": init, "schema": schema, "doctor": doctor, "tasks": tasks.list_tasks,
        "data get": tasks.get_data, "gc": gc,
    },
}  # fmt: skip
"""By the panels of the help page, in its order."""

GROUPS = {
    "track": "Fill MLflow from the store.",
    "import": "Convert published weights to a checkpoint.",
    "export": "Convert a checkpoint to another format.",
    "data": "Get books and the tasks' files.",
}


def _register_commands() -> None:
    groups: dict[str, typer.Typer] = {}
    for panel, commands in COMMANDS.items():
        for name, command in commands.items():
            group, _, own = name.rpartition(" ")
            if group and group not in groups:
                groups[group] = typer.Typer(help=GROUPS[group], no_args_is_help=True)
                app.add_typer(groups[group], name=group, rich_help_panel=panel)
            place = groups[group].command(own) if group else app.command(own, rich_help_panel=panel)
            place(with_options(command))


_register_commands()


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
    output.open_closed()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except (UserError, HeldError) as error:
        show(f"gpt1: {error}", error=True)
        raise SystemExit(INVALID if isinstance(error, UserError) else HELD) from None
    except OSError as error:
        raise SystemExit(_report(error)) from None


UNWRITTEN = {
    errno.ENOSPC: ("a write failed", "free some space"),
    errno.EIO: ("a read or write failed", "check the disk"),
    errno.EPIPE: ("a connection was closed", "run the same command again"),
}


def _report(error: OSError) -> int:
    """Say that a path is of no use, or that something cannot be written; the exit status. Raises
    other errors.
    """
    if error.filename is None and error.errno in UNWRITTEN:
        unread = output.is_unread(sys.stdout) or output.is_unread(sys.stderr)
        output.discard(sys.stdout)  # which may be what cannot be written
        if error.errno == errno.ENOSPC or not unread:
            what, advice = UNWRITTEN[error.errno]
            show(f"gpt1: {what}: {error.strerror}; {advice}", error=True)
        return FAILED
    known = (errno.ENAMETOOLONG, errno.EACCES, errno.EROFS, errno.ENOSPC)
    if error.errno not in known or error.filename is None:
        raise error
    show(f"gpt1: {error.filename}: {error.strerror}; use another path", error=True)
    return INVALID
