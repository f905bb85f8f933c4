"""What a person sees: progress in a log and in a terminal (read back), a job that is followed, why
a job failed; and output that cannot be written, which ends no run.
"""

import inspect
import io
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO, cast
from unittest.mock import Mock

import aiohttp
import pytest
import requests
from ray import exceptions as ray
from ray.job_submission import JobStatus
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from gpt1.errors import UserError
from pipeline.cli.output import LossyStream
from pipeline.cli.progress import Display, RunProgress
from pipeline.execution import jobs as submit
from pipeline.execution.causes import LESS, describe_failure, root_cause
from tests.conftest import ROOT
from tests.e2e.workflow import command
from tests.pipeline.inline import TOY, write_numbers
from tests.pipeline.inprocess import said

UNFINISHED = SimpleNamespace(status=JobStatus.RUNNING)


def show(stream: Any = None, pause: float = 0.0) -> None:
    display = Display(total=3, stream=stream)
    run, clean = RunProgress(display), cast(Any, SimpleNamespace(cell=SimpleNamespace(id="clean")))
    display.end("ingest", "cached", "dim")
    display.start("clean", "with.join_lines: true -> false")
    for part in range(25):  # at most a line in ten seconds, and one at the end
        run.job_progress(clean, part, 24, "parts", "the note")
    time.sleep(pause)
    run.job_info("clean", "[b]two\nlines \x1b[31mred\x1b[0m\x07\x1b]0;title\x07\tand a tab")
    summary = {"words": 512, "books": 9, "rejected": {}}
    run.job_done(clean, cast(Any, SimpleNamespace(stage="clean", seconds=67.0, summary=summary)))
    run.job_failed(clean, "no template", "FAILED")
    display.close()


def test_a_log_has_one_plain_line_an_event() -> None:
    show(stream := io.StringIO())
    assert [re.sub(r"^ *\d+\.\ds  ", "", line) for line in stream.getvalue().splitlines()] == [
        "[1/3] ingest  cached", "clean  started: with.join_lines: true -> false",
        "clean  0 of 24 parts (0%)  the note", "clean  24 of 24 parts (100%)  the note",
        "clean  [b]two lines red and a tab", "[2/3] clean  done in 1m 07s: books 9, words 512",
        "[3/3] clean  FAILED: no template",
    ]


@pytest.mark.parametrize(("term", "no_color"), [("xterm", ""), ("xterm", "1"), ("dumb", "1")])
def test_a_terminal_has_a_live_row_and_lines_above(term: str, no_color: str) -> None:
    leader, follower = pty.openpty()
    size = {"TERM": term, "NO_COLOR": no_color, "COLUMNS": "100", "LINES": "24"}
    env = {name: os.environ[name] for name in os.environ.keys() - {"FORCE_COLOR", "CI"}} | size
    imports = "import time\nfrom types import SimpleNamespace\nfrom typing import Any, cast\n"
    imports += "from pipeline.cli.progress import Display, RunProgress\n"
    command = [sys.executable, "-c", f"{imports}{inspect.getsource(show)}\nshow(pause=0.6)"]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env=env, cwd=ROOT)
    os.close(follower)
    data = b""
    with suppress(OSError):  # Linux says so when the other end is closed
        while chunk := os.read(leader, 65536):
            data += chunk
    os.close(leader)
    assert process.wait() == 0
    plain = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", data.decode())
    assert "[b]two lines red" in plain
    assert bool(re.search(r"clean .*24/24 parts.*the note", plain)) == (term == "xterm")
    assert (b"\x1b" in data, b"\x1b[32m" in data) == (term == "xterm", not no_color)


def test_jobs_have_a_heading_and_an_age(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {submit.KEY: "x", "gpt1.workflow": "toy", "gpt1.profile": "demo"}
    started = [1000 * (time.time() - 3600 * hours) for hours in (1, 50)] + [None]
    found = [
        SimpleNamespace(metadata=about, submission_id=f"job-{hour}", status=JobStatus.RUNNING,
            start_time=hour, end_time=None)
        for hour in started
    ]  # fmt: skip
    monkeypatch.setattr(submit, "connect", lambda _: Mock(list_jobs=lambda: found))
    heading, waiting, old, new = said("jobs").splitlines()
    assert heading.split() == ["job", "status", "started", "age", "workflow", "profile"]
    assert waiting.split()[1:] == ["RUNNING", "-", "-", "toy", "demo"]
    assert ("  2.1 days  toy" in old, "  1h 00m    toy" in new) == (True, True), (old, new)


@pytest.mark.parametrize(
    "answer", [requests.ConnectionError("gone"), aiohttp.ClientPayloadError("cut"), UNFINISHED]
)
def test_a_followed_job_whose_cluster_goes(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of these errors there is, is chance."""

    async def tail(job: str) -> AsyncIterator[str]:
        yield f"{job} works\n"
        if isinstance(answer, aiohttp.ClientError):
            raise answer

    client = Mock(get_job_status=lambda _: "RUNNING", tail_job_logs=tail)
    client.get_job_info.side_effect = [answer]
    monkeypatch.setattr(submit, "connect", lambda _: client)
    assert submit.follow("http://head:8265", "a-job") == 1


# The line that says why a job failed

WRONG = UserError("books: no such folder")
MONITOR = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP:"
    " 127.0.0.1, ID: bdde) was 3.35GB used / 23.54GB limit (0.142224)\nOOM kill reason: ..."
)


def in_task(error: Exception) -> Exception:
    return ray.RayTaskError("execute_cell", "Traceback ...", error, "title", 1, "127.0.0.1")


def in_rank(error: Exception) -> Exception:
    """As Ray Train wraps it."""
    ranks: Any = {1: ZeroDivisionError(), 0: UserExceptionWithTraceback(error, "Traceback ...")}
    return in_task(WorkerGroupError("[Rank 0 Error Snippet]:\n...", ranks))


KILLED = "its process was killed"
CAUSES: dict[str, tuple[Exception, str]] = {
    "a user's": (in_task(WRONG), "books: no such folder"),
    "a user's in a rank": (in_rank(WRONG), "books: no such folder"),
    "a rank's": (in_rank(OSError("two\nlines")), "OSError: two"),
    "no text": (in_task(KeyError()), "KeyError: KeyError"),
    "controller": (ControllerError(ValueError("no ranks")), "ValueError: no ranks"),
    "task killed": (ray.WorkerCrashedError(), KILLED),
    "rank killed": (WorkerGroupError("", {0: OSError(), 1: ray.ActorDiedError()}), KILLED),
    "node": (ray.NodeDiedError("a page"), "its node of the Ray cluster died or cannot be reached"),
    "memory": (
        in_rank(ray.OutOfMemoryError(MONITOR)),
        f"out of memory: Ray killed its process (the node used 3.35GB of 23.54GB); {LESS}",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_failure_is_its_cause_in_one_line(name: str) -> None:
    error, line = CAUSES[name]
    assert describe_failure(error) == line
    assert isinstance(root_cause(error), UserError) == name.startswith("a user's")
    if line == KILLED:
        said = describe_failure(error, ooms=1)
        assert said == f"out of memory: the kernel killed its process; {LESS}"


# Output that cannot be written


def show_lossy(stream: TextIO) -> str:
    """Show lines on a stream, buffered and not; what is reported."""
    said = io.StringIO()
    lossy: Any = LossyStream(stream, said.write)
    display = Display(stream=lossy)
    for number in range(3):
        display.line("cell", f"line {number}")
        print("more", file=lossy)
    stream.close()  # which writes what is left
    return said.getvalue()


def test_what_cannot_be_written_is_dropped() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert show_lossy(os.fdopen(writer, "w")) == ""
    lost = "gpt1: /dev/full: No space left on device; output is not shown\n"
    with Path("/dev/full").open("w") as full:
        assert show_lossy(full) == lost


FULL = "gpt1: a write failed: No space left on device; free some space\n"
WHERE = {
    ">/dev/full": (1, FULL), ">/dev/full 2>&1": (1, ""), ">&-": (0, ""), ">&- 2>&-": (0, ""),
    "| true; exit ${PIPESTATUS[0]}": (1, ""),
}  # fmt: skip


def end_of(verb: str, folder: Path, shell: str) -> tuple[int, str]:
    """The status and stderr of a command on the toy workflow, in the place of CMD in `shell`."""
    source = write_numbers(folder / "numbers")
    words = command(verb, "--file", TOY, "--store", folder, "--set", f"numbers.source={source}")
    ended = subprocess.run(
        ["bash", "-c", shell.replace("CMD", " ".join(words))], cwd=ROOT, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("where", WHERE)
def test_a_command_ends_in_one_line(where: str, tmp_path: Path) -> None:
    assert end_of("plan", tmp_path, f"sleep 0.1; CMD {where}") == WHERE[where]


def test_too_few_files_may_be_open(tmp_path: Path) -> None:
    few = "gpt1: a process can open 64 files here (`ulimit -n`), but Ray needs at least 256; raise"
    assert end_of("run", tmp_path, "ulimit -n 64; CMD") == (2, f"{few} the limit\n")
