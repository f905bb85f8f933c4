"""Progress, in a log and in a terminal (read back); a job that is followed."""

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
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
import requests
from ray.job_submission import JobStatus

from pipeline.cli.progress import Display
from pipeline.execution import jobs as submit
from tests.conftest import ROOT

UNFINISHED = SimpleNamespace(status=JobStatus.RUNNING)


def show(stream: Any = None, pause: float = 0.0) -> None:
    display = Display(total=3, stream=stream)
    display.cell_cached("ingest")
    display.cell_started("clean", "with.join_lines: true -> false")
    for part in range(25):  # at most a line in ten seconds, and one at the end
        display.cell_progress("clean", part, 24, "parts", "the note")
    time.sleep(pause)
    display.cell_line("clean", "[b]two\nlines \x1b[31mred\x1b[0m\x07\x1b]0;title\x07\tand a tab")
    display.cell_done("clean", 67.0, "9 books")
    display.cell_failed("report", "no template")
    display.close()


def test_a_log_has_one_plain_line_an_event() -> None:
    show(stream := io.StringIO())
    assert [re.sub(r"^ *\d+\.\ds  ", "", line) for line in stream.getvalue().splitlines()] == [
        "[1/3] ingest  cached", "clean  started: with.join_lines: true -> false",
        "clean  0 of 24 parts (0%)  the note", "clean  24 of 24 parts (100%)  the note",
        "clean  [b]two lines red and a tab", "[2/3] clean  done in 1m 07s: 9 books",
        "[3/3] report  FAILED: no template",
    ]


@pytest.mark.parametrize(("term", "no_color"), [("xterm", ""), ("xterm", "1"), ("dumb", "1")])
def test_a_terminal_has_a_live_row_and_lines_above(term: str, no_color: str) -> None:
    leader, follower = pty.openpty()
    size = {"TERM": term, "NO_COLOR": no_color, "COLUMNS": "100", "LINES": "24"}
    env = {name: os.environ[name] for name in os.environ.keys() - {"FORCE_COLOR", "CI"}} | size
    imports = "import time\nfrom typing import Any\nfrom pipeline.cli.progress import Display\n"
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
