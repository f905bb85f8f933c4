"""Running the small workflow as a user does, and looking at what it left."""

import json
import os
import random
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

MINI = ROOT / "tests" / "e2e" / "mini.yaml"
Record = dict[str, Any]
SEED = int(os.environ.get("SEED") or secrets.randbelow(1_000_000))
"""The one seed of all that `make chaos` draws at random: of the environment, or drawn now."""


def draw_for(name: str) -> random.Random:
    """The random numbers of one test, the same whichever tests run before it; prints the seed."""
    print(f"SEED={SEED}")
    return random.Random(f"{SEED} {name}")


def command(*words: str | Path) -> list[str]:
    """The command line `gpt1 WORDS`."""
    return [sys.executable, "-m", "pipeline.cli", *map(str, words)]


def gpt1(
    *words: str | Path, timeout: float = 1800, cwd: Path = ROOT, **about: str
) -> subprocess.CompletedProcess[str]:
    """Run the command, with variables added to the environment, and wait."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **about}
    return subprocess.run(
        command(*words), cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout
    )


def done(*words: str | Path, **about: Any) -> str:
    """Run what must end well, and wait; what it prints."""
    ended = gpt1(*words, **about)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr
    return ended.stdout


def begin(log: Path, *words: str | Path, **about: str) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, as a terminal does; its output goes to `log`."""
    env = {**os.environ, **about}
    with log.open("ab") as out:
        return subprocess.Popen(
            command(*words), cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True
        )


def records(store: Path, kind: str = "*") -> dict[str, Record]:
    """All records that count, by cell (parts have the names of their parts), of one kind of
    stage.
    """
    found = [json.loads(path.read_text()) for path in sorted(store.glob(f"{kind}/*/record*.json"))]
    live = [record for record in found if not record["withdrawn"]]
    return {f"{record['stage']}/{record['cell']}": record for record in live}


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


def checkpoints(store: Path) -> list[int]:
    """Steps of the complete checkpoints of pre-training, over all attempts."""
    found = store.glob("pretrain/*/*/checkpoints/step-*/manifest.json")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def last_steps(store: Path) -> list[int]:
    """The steps whose speed the last attempt at pre-training has recorded."""
    *_, file = sorted(store.glob("pretrain/*/2*/throughput.jsonl"))
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]
