"""The workflow as a job of a running Ray cluster."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gpt1.errors import UserError
from pipeline.provenance import ROOT

SENT = ("pipeline", "stages", "gpt1", "infra")
"""The folders of code that travel; data, environments and stores never do."""
LIMIT = 50 << 20  # bytes; Ray refuses packages above 100 MiB, and code is far below this
AGENT_WAIT = 120  # seconds; on a busy machine Ray's agents take up to a minute


def submit_job(
    address: str, file: Path, profile: str | None, assignments: list[str], store: Path, detach: bool, python: str | None = None
) -> int:
    """Submit `gpt1 run` and follow its output. Returns its exit status (0 at once with `detach`).

    `python` is the interpreter on the cluster: this very one for a cluster on this machine, else the `python` of its PATH.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"--address {address}: no Ray cluster answers ({line}); start one with `ray start --head`") from None
    with tempfile.TemporaryDirectory(prefix="gpt1-submit-") as folder:
        packed = _pack(Path(folder), file)
        job = _submit(
            client,
            f"gpt1-{secrets.token_hex(8)}",
            entrypoint=shlex.join([python or _python(address), *_words(file, profile, assignments, store)]),
            runtime_env={"working_dir": str(packed)},
            metadata={"gpt1.profile": profile or "", "gpt1.workflow": str(file)},
        )
    print(f"job {job} submitted to {address}", flush=True)
    if detach:
        return 0
    try:
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        print(f"the job goes on; `ray job logs --address {address} {job}` shows it, `ray job stop` ends it")
        return 130
    info = client.get_job_info(job)
    code = info.driver_exit_code
    return code if code is not None else int(str(info.status) != "SUCCEEDED")


def _submit(client: Any, job: str, **arguments: Any) -> str:
    """Submit under a name of our own, so that asking again can never start a second job; returns the name.

    A cluster that has just started answers before its job agents do: it is asked again for up to `AGENT_WAIT` seconds.
    """
    deadline = time.monotonic() + AGENT_WAIT
    while True:
        try:
            return str(client.submit_job(submission_id=job, **arguments))
        except RuntimeError as error:
            if "already exists" in str(error):
                return job
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                mend = "see the dashboard agent's log on the head, or submit again"
                raise UserError(f"the cluster has no job agent after {AGENT_WAIT} s; {mend}") from None
        time.sleep(2)


def _python(address: str) -> str:
    return sys.executable if urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1") else "python"


def _words(file: Path, profile: str | None, assignments: list[str], store: Path) -> list[str]:
    words = ["-m", "pipeline.cli", "run", "--file", file.name, "--store", str(store.absolute()), "--address", "auto"]
    if profile:
        words += ["--profile", profile]
    for assignment in assignments:
        words += ["--set", assignment]
    return words


def _pack(folder: Path, file: Path) -> Path:
    """A copy of what travels, with nothing beside it. UserError when it is too large to upload."""
    for name in SENT:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    shutil.copy(file, folder / file.name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        mend = f"take large files out of {', '.join(SENT)}"
        raise UserError(f"the code to upload has {size >> 20} MiB, more than {LIMIT >> 20} MiB; {mend}")
    return folder


async def _follow(client: object, job: str) -> None:
    async for text in client.tail_job_logs(job):  # type: ignore[attr-defined]
        print(text, end="", flush=True)
