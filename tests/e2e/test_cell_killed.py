"""`kill -9` of the worker of one fine-tuning job: it is tried again, the other jobs do not notice, every byte is the same."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e.workflow import gpt1, outputs, records

pytestmark = pytest.mark.slow

MATRIX = ROOT / "tests" / "e2e" / "matrix.yaml"
VICTIM = "finetune[task=demo_author,seed=1]"


def words(store: Path) -> list[str]:
    return ["run", "finetune", "--file", str(MATRIX), "--store", str(store)]


def parent(pid: int) -> int:
    """The parent's id; 0 where the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parent(pid)
    return False


def worker_of(cell: str, driver: int) -> int | None:
    """The process, below this very driver, that runs the cell."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if title == f"ray::{cell}" and descends(int(folder.name), driver):
            return int(folder.name)
    return None


def run_and_kill(store: Path) -> str:
    """Run the matrix, kill the victim's worker once while it trains; what was printed."""
    log = store.parent / "log"
    with log.open("wb") as out:
        driver = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *words(store)], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
        )
        deadline = time.monotonic() + 300
        worker = None
        while worker is None:
            assert driver.poll() is None, f"the run ended before its worker could be killed:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.05)
            worker = worker_of(VICTIM, driver.pid)
        time.sleep(1.0)  # into the job
        os.kill(worker, signal.SIGKILL)
        assert driver.wait(300) == 0, log.read_text()[-3000:]
    return log.read_text()


def test_a_killed_cell_is_tried_again_and_the_others_do_not_notice(tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    calm = gpt1(*words(tmp_path / "calm" / "store"))
    assert calm.returncode == 0, calm.stdout + calm.stderr
    disturbed = tmp_path / "disturbed" / "store"
    disturbed.parent.mkdir()
    said = run_and_kill(disturbed)
    assert re.search(rf"{re.escape(VICTIM)}.*try 1 failed", said), said[-3000:]
    assert said.count("try 1 failed") == 1
    assert outputs(disturbed) == outputs(tmp_path / "calm" / "store")
    attempts = {cell: len(list((disturbed / "finetune" / record["fingerprint"]).glob("2*"))) for cell, record in
                records(disturbed, "finetune").items()}  # fmt: skip
    assert attempts.pop(f"finetune/{VICTIM}") == 2
    assert set(attempts.values()) == {1}
    assert len(attempts) == 3
    more = gpt1(*words(disturbed), "--dry-run")
    assert "up to date" in more.stdout
