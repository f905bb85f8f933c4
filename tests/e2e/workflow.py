"""Running the small workflow as a user does, and looking at what it left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.servers.process import wait_until

MINI = ROOT / "tests" / "e2e" / "mini.yaml"
Record = dict[str, Any]


def gpt1(
    *words: str | Path, timeout: float = 600, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
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


def copy_without(golden: Path, store: Path, *missing: str) -> Path:
    """A copy of a store without the cells and parts whose names begin with one of `missing`."""
    shutil.copytree(golden, store, symlinks=True)
    for path in store.glob("*/*/record.json"):
        record = json.loads(path.read_text())
        if f"{record['stage']}/{record['cell']}".startswith(missing):
            shutil.rmtree(path.parent)
    return store


def begin(log: Path, *words: str | Path, cwd: Path = ROOT) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, as a terminal does; its output goes to `log`."""
    command = [sys.executable, "-m", "pipeline.cli", *map(str, words)]
    with log.open("ab") as out:
        return subprocess.Popen(command, cwd=cwd, stdout=out, stderr=out, start_new_session=True)


def kill_when(store: Path, ready: Callable[[], bool], *words: str) -> None:
    """Start the small workflow and `kill -9` its driver as soon as `ready` says so."""
    log = store.parent / "killed.log"
    driver = begin(log, "run", "--file", MINI, "--store", store, *words)
    wait_until(ready, "something to kill", driver, log, 300, every=0.01)
    driver.kill()
    driver.wait()


def checkpoints(store: Path) -> list[int]:
    """Steps of the complete checkpoints of pre-training, over all attempts."""
    found = store.glob("pretrain/*/*/checkpoints/step-*/record.json")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def steps_by_attempt(store: Path) -> list[list[int]]:
    """The steps whose speed each attempt at pre-training has recorded."""
    files = sorted(store.glob("pretrain/*/2*/throughput.jsonl"))
    return [[json.loads(line)["step"] for line in file.read_text().splitlines()] for file in files]
