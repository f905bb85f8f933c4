"""Progress, in a log and in a terminal (a pseudo-terminal that is read back)."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pipeline.display
from pipeline.display import Display, clean, duration

SHOW = """
import sys
from pipeline.display import Display
display = Display(total=2)
display.cell_cached("ingest")
display.cell_started("clean", "never run")
display.cell_progress("clean", 3, 10, "parts", "the note")
import time; time.sleep(0.6)
display.cell_line("clean", "[bold]kept as it is[/bold]")
display.cell_done("clean", 1.25, "9 books")
display.close()
"""


def lines(text: str) -> list[str]:
    return [re.sub(r"^ *\S+ s  ", "", line) for line in text.splitlines()]


def test_a_log_has_one_plain_line_an_event() -> None:
    stream = io.StringIO()
    display = Display(total=3, stream=stream)
    display.cell_cached("ingest")
    display.cell_started("clean", "with.join_lines: true -> false")
    display.cell_line("clean", "two\nlines \x1b[31mred\x1b[0m\x07\tand a tab")
    display.cell_done("clean", 67.0, "9 books")
    display.cell_failed("report", "no template")
    display.close()
    assert lines(stream.getvalue()) == [
        "[1/3] ingest  up to date",
        "clean  started: with.join_lines: true -> false",
        "clean  two lines red and a tab",
        "[2/3] clean  done in 1:07: 9 books",
        "[3/3] report  FAILED: no template",
    ]


def test_progress_in_a_log_is_throttled_and_said_when_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = io.StringIO(), [100.0]
    monkeypatch.setattr(pipeline.display.time, "monotonic", lambda: now[0])
    display = Display(stream=stream)
    display.cell_started("clean", "never run")
    for second in range(25):
        now[0] += 1
        display.cell_progress("clean", second, 24, "parts", f"note {second}")
    display.cell_progress("clean", 24, 24, "parts")
    now[0] += 10
    display.cell_progress("clean", 1, 50, "steps")  # the same cell's next phase
    display.cell_progress("clean", 50, 50, "steps")
    assert lines(stream.getvalue())[1:] == [
        "clean  0 of 24 parts (0 %)  note 0",
        "clean  10 of 24 parts (42 %)  note 10",
        "clean  20 of 24 parts (83 %)  note 20",
        "clean  24 of 24 parts (100 %)  note 24",
        "clean  1 of 50 steps (2 %)",
        "clean  50 of 50 steps (100 %)",
    ]


def test_a_log_that_knows_no_unicode(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as stream:
        Display(stream=stream).cell_line("report", "Emily Brontë")
    assert "Emily Bront?" in (tmp_path / "log").read_text()


def test_threads_do_not_mix_lines() -> None:
    stream = io.StringIO()
    display = Display(stream=stream)
    threads = [threading.Thread(target=lambda: [display.cell_line("cell", "x" * 50) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(lines(stream.getvalue())) == {"cell  " + "x" * 50}


def in_terminal(**environment: str) -> str:
    """What SHOW sends to a terminal of 100 columns."""
    leader, follower = pty.openpty()
    clean_environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW], stdout=follower, stderr=follower,
        env={**clean_environment, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "24", **environment},
    )  # fmt: skip
    os.close(follower)
    data = b""
    try:
        while chunk := os.read(leader, 65536):
            data += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    return data.decode()


def test_a_terminal_has_a_live_row_and_finished_lines_above() -> None:
    shown = in_terminal()
    plain = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", shown)
    assert re.search(r"clean .*3/10 parts.*the note", plain)
    assert "[bold]kept as it is[/bold]" in plain
    assert "[2/2] clean  done in 1.2 s: 9 books" in plain
    assert "\x1b[32m" in shown, "green for what is done"
    assert shown.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in shown[shown.rfind("\x1b[?25l") :], "the cursor is shown again"


def test_no_color_in_a_terminal_means_no_colour() -> None:
    colours = re.findall(r"\x1b\[([0-9;]*)m", in_terminal(NO_COLOR="1"))
    assert all(int(code or 0) in range(10) for group in colours for code in group.split(";")), colours  # bold and dim at most


def test_a_dumb_terminal_gets_no_control_characters() -> None:
    assert "\x1b" not in in_terminal(TERM="dumb")


def test_durations_and_cleaning() -> None:
    assert [duration(s) for s in (0.04, 59.94, 60, 3599.6, 7389)] == ["0.0 s", "59.9 s", "1:00", "1:00:00", "2:03:09"]
    assert clean("a\x1b]0;title\x07b\x1b[2Kc\r\nd") == "abc d"
