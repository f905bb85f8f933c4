"""The workflow as a job of a running Ray cluster: submitted, followed, listed, stopped."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpt1.errors import UserError
from gpt1.format import span
from gpt1.terminal import one_line, show
from pipeline.execution.ray_access import ANSWERED, check_job_server, warn_of_open, without_password
from pipeline.execution.shutdown import CLOSING, INTERRUPTED, SAVING
from pipeline.planning.last_run import SUBMITTED_FILE
from pipeline.workflow.user_code import NONE, ROOT, UserCode

SENT = ("pipeline", "stages", "gpt1")
"""The folders of code that travel, and the user's modules; data, environments and stores never
do.
"""
SENT_USER_CODE = "user-code"
"""The folder of a job's files that the user's modules are in: no name that can be imported,
which may be one of theirs.
"""
LIMIT = 50 << 20  # bytes; Ray refuses packages above 100 MiB, and code is far below this
AGENT_WAIT = 120  # seconds; on a busy machine Ray's agents take up to a minute
ASK_EVERY = 10.0  # seconds between questions after a job that says nothing
STOPPING = {"RAY_JOB_STOP_WAIT_TIME_S": f"{SAVING + CLOSING:.0f}"}
"""For Ray, whose 3 seconds between asking a job to end and killing it are too few for a
checkpoint.
"""
PASSED_ON = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "AWS_REGION",
    "MLFLOW_TRACKING_URI",
)
"""Addresses that the job is given from the submitter's environment.

Secrets are not: Ray shows a job's environment to everyone.
"""
SECRET = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|(^|_)KEY(_|$)", re.IGNORECASE)
KEY, OVER = "gpt1.key", ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class JobSpec:
    """What a job runs: `gpt1 run` with these arguments; `python` is the interpreter there (None:
    this one for a cluster on this machine, else the `python` of its PATH).
    """

    file: Path
    args: Sequence[str]
    profile: str | None = None
    code: UserCode = NONE
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None

    @property
    def key(self) -> str:
        """The same for the same work: the workflow's content, the user's modules, and
        everything it is run with.
        """
        hashed = hashlib.sha256(b"\0".join([self.file.read_bytes(), *map(str.encode, self.args)]))
        folder = self.code.folder
        for file in sorted(file for name in self.code.entries for file in _files(folder / name)):
            hashed.update(f"\0{file.relative_to(folder)}\0".encode() + file.read_bytes())
        return hashed.hexdigest()[:16]


def submit_job(address: str, spec: JobSpec, detach: bool) -> int:
    """Submit `gpt1 run` and follow its output. Returns its exit status (0 at once with `detach`).

    Where the very same work is under way, that job is followed; so a submitter may be killed, or
    run twice, and do no harm.
    """
    environment = job_environment(spec.environment)
    shown = without_password(address)
    if not check_job_server(address):
        warn_of_open(shown)
    client = connect(address)
    same = [job for job in _list(client, address) if (job.metadata or {}).get(KEY) == spec.key]
    active = [job for job in same if str(job.status) not in OVER]
    if active:
        job = str(active[0].submission_id)
        show(f"job {job} at {shown} is the same work and still running")
    else:
        # Of two who submit at once the second finds this name taken, and follows.
        job = f"gpt1-{spec.key}-{len(same)}"
        is_here = urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")
        python = spec.python or (sys.executable if is_here else "python")
        command = [python, "-m", "pipeline.cli", "run", *spec.args, "--address", "auto"]
        own = spec.code.runtime_env(SENT_USER_CODE)
        variables = {**STOPPING, **environment, SUBMITTED_FILE: str(spec.file.resolve())}
        variables |= own.pop("env_vars", {})
        about = {"gpt1.profile": spec.profile or "", "gpt1.workflow": spec.file.name, KEY: spec.key}
        with tempfile.TemporaryDirectory(prefix="gpt1-submit-") as folder:
            packed = _pack(Path(folder), spec.file, spec.code)
            _submit(
                client, submission_id=job, entrypoint=shlex.join(command), metadata=about,
                runtime_env={"working_dir": str(packed), "env_vars": variables, **own},
            )  # fmt: skip
        show(f"job {job} submitted to {shown}")
    return 0 if detach else follow(address, job)


def follow(address: str, job: str) -> int:
    """Print a job's output until it ends; its exit status.

    Interrupted: 130, and the job goes on. 1 when the cluster is gone.
    """
    from aiohttp import ClientError

    client, shown = connect(address), without_password(address)
    _check_job(client, address, job)
    try:
        asyncio.run(_follow(client, job))
        # Ray's log ends without an error, too, when the cluster closes the connection.
        info = client.get_job_info(job)
    except KeyboardInterrupt:
        where = f"--address {shown} {job}"
        show(f"the job continues; follow it with `gpt1 logs {where}`, or stop it with"
            f" `gpt1 stop {where}`")  # fmt: skip
        return INTERRUPTED
    except (RuntimeError, OSError, ClientError) as error:
        why = type(error).__name__  # the text of such an error is a page
        advice = "run the same command to follow it again, or to resume from the store"
        show(f"lost the connection to {shown} and job {job} ({why}); {advice}")
        return 1
    if not info.status.is_terminal():
        advice = "run the same command to follow it again"
        show(f"lost the connection to job {job}, which continues; {advice}")
        return 1
    code = info.driver_exit_code
    return code if code is not None else int(str(info.status) != "SUCCEEDED")


def stop(address: str, job: str) -> None:
    """Ask a job to end. Its finished work stays, and the same submission resumes there."""
    client = connect(address)
    _check_job(client, address, job)
    client.stop_job(job)


def wait_for_end(address: str, job: str) -> str:
    """Wait until a job that was asked to end has; its status.

    UserError when the cluster is gone before.
    """
    client = connect(address)
    try:
        while (status := str(client.get_job_status(job))) not in OVER:
            time.sleep(1)
    except (RuntimeError, OSError) as error:
        what = f"{without_password(address)} and job {job} ({type(error).__name__})"
        advice = "run `gpt1 jobs` when the cluster is back"
        raise UserError(f"lost the connection to {what}; {advice}") from None
    return status


def jobs(address: str) -> list[dict[str, Any]]:
    """The workflow's jobs on a cluster, oldest first: id, status, workflow, profile, start and
    end (ms since 1970).
    """
    ours = [job for job in _list(connect(address), address) if KEY in (job.metadata or {})]
    rows = []
    for job in sorted(ours, key=lambda job: job.start_time or 0):
        about = {name: job.metadata.get(f"gpt1.{name}", "") for name in ("workflow", "profile")}
        times = {"start": job.start_time, "end": job.end_time}
        rows.append({"job": job.submission_id, "status": str(job.status), **about, **times})
    return rows


def connect(address: str) -> Any:
    """Ray's client of a cluster's job server. UserError when none answers, or it refuses us."""
    check_job_server(address)
    # Ray prefers this variable, and RAY_ADDRESS, to what it is given.
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (OSError, RuntimeError) as error:  # such as another version's
        where = f"--address {without_password(address)}"
        raise UserError(f"{where}: {one_line(error, ANSWERED)}") from None


def job_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables of a job: addresses of the submitter's environment, and those given.

    UserError for what is a secret.
    """
    passed = {name: value for name in PASSED_ON if (value := os.environ.get(name))}
    for name, value in {**passed, **given}.items():
        if SECRET.search(name) or ("://" in value and without_password(value) != value):
            advice = "set it in the environment of the cluster's nodes"
            why = "(docs/explanation/cluster.md): Ray shows a job's environment to everyone"
            raise UserError(f"{name} holds a secret; {advice} {why}")
    return {**passed, **given}


def address_of(store: str) -> str:
    """A store as another process of this machine, or another machine, finds it."""
    return store if re.match(r"s3:/|file://", store) else str(Path(store).absolute())


def _list(client: Any, address: str) -> list[Any]:
    """The jobs that a cluster knows.

    UserError when it cannot say, as one whose head is not well.
    """
    try:
        return list(client.list_jobs())
    except Exception as error:  # whatever Ray's client makes of an answer that is none
        problem = f"the cluster cannot list its jobs ({one_line(error, ANSWERED)})"
        where = without_password(address)
        raise UserError(f"--address {where}: {problem}; check its head") from None


def _check_job(client: Any, address: str, job: str) -> None:
    try:
        client.get_job_status(job)
    except RuntimeError:
        where, names = without_password(address), ", ".join(one["job"] for one in jobs(address))
        raise UserError(f"{where} has no job {job}; its jobs: {names or 'none'}") from None


def _submit(client: Any, **arguments: Any) -> None:
    """Submit under a name of our own, so that asking again can never start a second job.

    A cluster that has just started answers before its job agents do: it is asked again for up to
    `AGENT_WAIT` seconds.
    """
    deadline = time.monotonic() + AGENT_WAIT
    while True:
        try:
            client.submit_job(**arguments)
            return
        except RuntimeError as error:
            if "already exists" in str(error):
                return
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                problem = f"the cluster has no job agent after {span(AGENT_WAIT)}"
                advice = "check the dashboard agent's log on the head, or submit again"
                raise UserError(f"{problem}; {advice}") from None
        time.sleep(2)


def _pack(folder: Path, file: Path, code: UserCode) -> Path:
    """A copy of what travels, and of nothing else. UserError when it is too large to upload."""
    sources = {**{folder / name: ROOT / name for name in SENT}, folder / file.name: file}
    sources |= {folder / SENT_USER_CODE / entry: code.folder / entry for entry in code.entries}
    for target, source in sources.items():
        for path in _files(source):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        problem = f"has {size >> 20} MiB, expected at most {LIMIT >> 20} MiB"
        advice = f"move large files out of {', '.join([*SENT, *code.entries])}"
        raise UserError(f"the code to upload {problem}; {advice}")
    return folder


def _files(path: Path) -> list[Path]:
    """The files of what is sent, itself or in it: without byte code and hidden files."""
    if path.is_file():
        return [path]
    found: list[Path] = []
    root = path.resolve()
    entered = {str(parent) for parent in root.parents}
    for folder, folders, names in os.walk(path, followlinks=True):  # `import` follows links, too
        entered.add(os.path.realpath(folder))
        seen = [name for name in sorted(folders) if not name.startswith((".", "__pycache__"))]
        folders[:] = [one for one in seen if os.path.realpath(f"{folder}/{one}") not in entered]
        # Behind a link elsewhere may be a corpus: code alone is taken.
        kind = "" if Path(folder).resolve().is_relative_to(root) else ".py"
        visible = [name for name in sorted(names) if not name.startswith(".")]
        found += [Path(folder, name) for name in visible if name.endswith(kind)]
    return [file for file in found if file.is_file()]


async def _follow(client: Any, job: str) -> None:
    """Raises OSError, RuntimeError or aiohttp's ClientError when the cluster, or the job in it, is
    gone.

    The job is asked after, too, because a host without power breaks no connection.
    """
    printing = asyncio.ensure_future(_print_log(client, job))
    try:
        while not (await asyncio.wait({printing}, timeout=ASK_EVERY))[0]:
            await asyncio.to_thread(client.get_job_status, job)
        await printing
    finally:
        printing.cancel()


async def _print_log(client: Any, job: str) -> None:
    async for text in client.tail_job_logs(job):
        show(text, end="")
