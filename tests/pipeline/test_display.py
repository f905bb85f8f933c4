"""Progress, in a log and in a terminal (read back); a job that is followed."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
import requests
from ray.job_submission import JobStatus

from pipeline import submit
from pipeline.display import Display

SHOW = """
import time
from pipeline.display import Display
display = Display(total=2)
display.cell_cached("ingest")
display.cell_started("clean", "never run")
display.cell_progress("clean", 3, 10, "parts", "the note")
time.sleep(0.6)
display.cell_line("clean", "[bold]kept as it is[/bold]")
display.cell_done("clean", 1.25, "9 books")
display.close()
"""


def test_a_log_has_one_plain_line_an_event() -> None:
    stream = io.StringIO()
    display = Display(total=3, stream=stream)
    display.cell_cached("ingest")
    display.cell_started("clean", "with.join_lines: true -> false")
    for part in range(25):  # at most a line in ten seconds, and one at the end
        display.cell_progress("clean", part, 24, "parts")
    display.cell_line("clean", "two\nlines \x1b[31mred\x1b[0m\x07\x1b]0;title\x07\tand a tab")
    display.cell_done("clean", 67.0, "9 books")
    display.cell_failed("report", "no template")
    display.close()
    assert [re.sub(r"^ *\S+ s  ", "", line) for line in stream.getvalue().splitlines()] == [
        "[1/3] ingest  up to date", "clean  started: with.join_lines: true -> false",
        "clean  0 of 24 parts (0 %)", "clean  24 of 24 parts (100 %)",
        "clean  two lines red and a tab", "[2/3] clean  done in 1:07: 9 books",
        "[3/3] report  FAILED: no template",
    ]


@pytest.mark.parametrize(("term", "no_color"), [("xterm", ""), ("xterm", "1"), ("dumb", "1")])
def test_a_terminal_has_a_live_row_and_lines_above(term: str, no_color: str) -> None:
    leader, follower = pty.openpty()
    size = {"TERM": term, "NO_COLOR": no_color, "COLUMNS": "100", "LINES": "24"}
    env = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ} | size
    command = [sys.executable, "-c", SHOW]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    data = b""
    with suppress(OSError):  # Linux says so when the other end is closed
        while chunk := os.read(leader, 65536):
            data += chunk
    os.close(leader)
    assert process.wait() == 0
    plain = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", data.decode())
    assert "[bold]kept as it is[/bold]" in plain
    assert bool(re.search(r"clean .*3/10 parts.*the note", plain)) == (term == "xterm")
    assert (b"\x1b" in data, b"\x1b[32m" in data) == (term == "xterm", not no_color)


@pytest.mark.parametrize(
    ("log", "answer", "status"),
    [
        (None, requests.ConnectionError("gone"), 1), (aiohttp.ClientPayloadError("cut"), None, 1),
        (None, SimpleNamespace(driver_exit_code=3, status=JobStatus.FAILED), 3),
        (None, SimpleNamespace(driver_exit_code=None, status=JobStatus.RUNNING), 1),
    ],
)
def test_a_followed_job(log: Any, answer: Any, status: int, monkeypatch: Any, capsys: Any) -> None:
    """It ends with its status, or 1 when its cluster goes: which of these errors is chance."""

    async def tail(job: str) -> AsyncIterator[str]:
        yield f"{job} works\n"
        if log is not None:
            raise log

    client = Mock(get_job_status=lambda _: "RUNNING", tail_job_logs=tail)
    client.get_job_info.side_effect = [answer]
    monkeypatch.setattr(submit, "connect", lambda _: client)
    assert submit.follow("http://head:8265", "a-job") == status
    assert len(capsys.readouterr().out.splitlines()) == 1 + (status == 1)
