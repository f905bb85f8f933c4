"""Output that cannot be written ends no run, and is no traceback elsewhere."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, TextIO

import pytest

from pipeline.cli.output import LossyStream
from pipeline.cli.progress import Display
from tests.conftest import ROOT
from tests.e2e.workflow import command
from tests.pipeline.inline import TOY, write_numbers


def show(stream: TextIO) -> str:
    """Show lines on a stream, buffered and not; what is reported."""
    said = io.StringIO()
    lossy: Any = LossyStream(stream, said.write)
    display = Display(stream=lossy)
    for number in range(3):
        display.cell_line("cell", f"line {number}")
        print("more", file=lossy)
    stream.close()  # which writes what is left
    return said.getvalue()


def test_what_cannot_be_written_is_dropped() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert show(os.fdopen(writer, "w")) == ""
    lost = "gpt1: /dev/full: No space left on device; output is not shown\n"
    with Path("/dev/full").open("w") as full:
        assert show(full) == lost


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


def test_a_connection_that_is_closed_and_a_disk_are_no_reader_that_is_gone() -> None:
    code = "from pipeline.cli.main import _report\nfor n in (32, 5): _report(OSError(n, 'why'))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, (
        "gpt1: a connection was closed: why; run the same command again\n"
        "gpt1: a read or write failed: why; check the disk\n"
    ))  # fmt: skip


def test_too_few_files_may_be_open(tmp_path: Path) -> None:
    few = "gpt1: a process can open 64 files here (`ulimit -n`), but Ray needs at least 256; raise"
    assert end_of("run", tmp_path, "ulimit -n 64; CMD") == (2, f"{few} the limit\n")
