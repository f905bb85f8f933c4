"""Running the small whole workflow as a user does, and looking at what it left."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

MINI = ROOT / "tests" / "e2e" / "mini.yaml"
Record = dict[str, Any]


def gpt1(*words: str | Path, timeout: float = 600, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command and wait."""
    command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)


def run_mini(store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`gpt1 run` of the small workflow."""
    return gpt1("run", "--file", MINI, "--store", store, *words)


def records(store: Path, kind: str = "*") -> dict[str, Record]:
    """All published records by cell (parts have the names of their parts), of one kind of stage."""
    found = [json.loads(path.read_text()) for path in sorted(store.glob(f"{kind}/*/record.json"))]
    return {f"{record['stage']}/{record['cell']}": record for record in found}


def outputs(store: Path) -> dict[str, str]:
    """sha256 of every output file that is not volatile, by cell and name."""
    return {
        f"{cell}/{name}": file["sha256"]
        for cell, record in records(store).items()
        for name, file in record["files"].items()
        if not file["volatile"]
    }


def kill_when(store: Path, ready: Callable[[], bool], *words: str, limit: float = 300) -> None:
    """Start the small workflow and `kill -9` its driver as soon as `ready` says so."""
    command = [sys.executable, "-m", "pipeline.cli", "run", "--file", str(MINI), "--store", str(store), *words]
    log = store.parent / "killed.log"
    with log.open("ab") as out:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + limit
        while not ready():
            assert driver.poll() is None, f"the run ended before it could be killed:\n{log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"nothing to kill within {limit} s:\n{log.read_text()[-3000:]}"
            time.sleep(0.01)
        driver.kill()
        driver.wait()
