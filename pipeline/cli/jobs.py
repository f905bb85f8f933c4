"""`gpt1 submit`, `jobs`, `logs` and `stop`: the workflow on a running Ray cluster."""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer

from gpt1.errors import UserError
from pipeline.cli.options import Json, RunOptions, flag, takes_run_options

ADDRESS = "Job server of the cluster, such as http://127.0.0.1:8265."
JobAddress = Annotated[
    str, typer.Option("--address", help=ADDRESS, envvar="RAY_API_SERVER_ADDRESS")
]
Job = Annotated[
    str, typer.Argument(help="Job ID, as printed by `gpt1 submit` and `gpt1 jobs`.")
]
HERE = "http://127.0.0.1:8265"


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (submit, jobs, logs, stop):
        app.command()(command)


@takes_run_options
def submit(
    options: RunOptions,
    address: JobAddress = HERE,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", help="Environment variable, NAME=VALUE; no secrets. Repeatable."),
    ] = None,
    detach: Annotated[bool, flag("--detach", "Do not wait for the job.")] = False,
    python: Annotated[
        str | None,
        typer.Option("--python", help="Python interpreter on the cluster, if not `python`."),
    ] = None,
) -> None:
    """Submit the workflow to a running Ray cluster as a job and follow its output.

    Exit status: that of the job's `gpt1 run`.
    """
    from pipeline.execution.jobs import JobSpec, address_of, submit_job

    workflow = options.read()
    words = options.words(options.file.name, address_of(options.store))
    spec = JobSpec(
        options.file, words, workflow.profile, workflow.user_code, _environment(env or []), python
    )
    raise typer.Exit(submit_job(address, spec, detach))


def jobs(address: JobAddress = HERE, as_json: Json = False) -> None:
    """List the gpt1 jobs on a cluster."""
    from pipeline.execution import jobs as work

    found = work.jobs(address)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for job in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime((job["start"] or 0) / 1000))
        print(
            f"{job['job']}  {job['status']:<9}  {when}  {job['workflow']} {job['profile']}".rstrip()
        )
    if not found:
        print(f"no gpt1 jobs at {address}")


def logs(job: Job, address: JobAddress = HERE) -> None:
    """Print a job's output and follow it until the job ends. Exit status: the job's."""
    from pipeline.execution.jobs import follow

    raise typer.Exit(follow(address, job))


def stop(
    job: Job, address: JobAddress = HERE,
    detach: Annotated[bool, flag("--detach", "Do not wait for the job to end.")] = False,
) -> None:
    """Stop a job; training saves a checkpoint first.

    Finished work is kept; submit again to resume.
    """
    from pipeline.execution import jobs as work

    work.stop(address, job)
    print(f"job {job}: stopping", flush=True)
    if not detach:
        print(f"job {job}: {work.wait_for_end(address, job)}")


def _environment(pairs: list[str]) -> dict[str, str]:
    found = dict(pair.partition("=")[::2] for pair in pairs)
    for pair in pairs:
        if "=" not in pair or pair.startswith("="):
            raise UserError(f"--env {pair}: expected NAME=VALUE")
    return found
