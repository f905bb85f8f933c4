"""`gpt1 submit`, `jobs`, `logs` and `stop`: the workflow on a running Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt1.errors import UserError
from gpt1.format import span
from gpt1.terminal import show
from pipeline.cli.options import Json, RunOptions
from pipeline.cli.output import format_table, format_time, print_json
from pipeline.execution import jobs as work

ADDRESS = "Job server of the cluster, such as http://127.0.0.1:8265."
JobAddress = Annotated[
    str, typer.Option("--address", help=ADDRESS, envvar="RAY_API_SERVER_ADDRESS")
]
Job = Annotated[str, typer.Argument(help="Job ID, as printed by `gpt1 submit` and `gpt1 jobs`.")]
HERE = "http://127.0.0.1:8265"


def submit(
    options: RunOptions, address: JobAddress = HERE, env: list[str] | None = None,
    detach: bool = False, python: str | None = None,
) -> None:
    """Submit the workflow to a running Ray cluster as a job and follow its output.

    Exit status: that of the job's `gpt1 run`.

    Args:
        env: Environment variable, NAME=VALUE; no secrets. Repeatable.
        detach: Do not wait for the job.
        python: Python interpreter on the cluster, if not `python`.
    """
    workflow = options.read()
    there = replace(options, file=Path(options.file.name), store=work.address_of(options.store))
    variables = dict(map(_variable, env or ()))
    args, profile, code = there.to_args(), workflow.profile, workflow.user_code
    spec = work.JobSpec(options.file, args, profile, code, variables, python)
    raise typer.Exit(work.submit_job(address, spec, detach))


def jobs(address: JobAddress = HERE, as_json: Json = False) -> None:
    """List the gpt1 jobs on a cluster, newest last: ID, status, start, age, workflow, profile."""
    found = work.jobs(address)
    if as_json:
        print_json(found)
    elif not found:
        show(f"no gpt1 jobs at {address}")
    else:
        heading = ("job", "status", "started", "age", "workflow", "profile")
        show(format_table([heading, *map(_row, found)]))


def _row(job: Mapping[str, Any]) -> tuple[str, ...]:
    started, age = "-", "-"
    if job["start"]:  # else it waits
        seconds = job["start"] / 1000
        started, age = format_time(seconds), span(time.time() - seconds)
    return job["job"], job["status"], started, age, job["workflow"], job["profile"]


def logs(job: Job, address: JobAddress = HERE) -> None:
    """Print a job's output and follow it until the job ends. Exit status: the job's."""
    raise typer.Exit(work.follow(address, job))


def stop(job: Job, address: JobAddress = HERE, detach: bool = False) -> None:
    """Stop a job; training saves a checkpoint first.

    Finished work is kept; submit again to resume.

    Args:
        detach: Do not wait for the job to end.
    """
    work.stop(address, job)
    show(f"job {job}: stopping")
    if not detach:
        show(f"job {job}: {work.wait_for_end(address, job)}")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"--env {text}: expected NAME=VALUE")
    return name, value
