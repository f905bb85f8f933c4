"""`python -m tests.servers.demo` (`make remote-demo`): the demo on a cluster of this machine, and compared with one machine alone.

Starts PostgreSQL, S3, MLflow and Ray, submits the workflow, runs the same in a folder without any of them, and compares sha256s and
what MLflow holds. Exit status 1 when something differs. Other words are those of `gpt1 run`, such as `--file FILE`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.e2e.workflow import outputs
from tests.servers.mlflow import recorded, ui
from tests.servers.stack import Stack, stack


def main() -> int:
    """Submit, compare, and then wait for Enter so that one can look around."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--against", type=Path, help="the store of the run on one machine; what is done stays (make run: store)")
    given, rest = parser.parse_known_args()
    words = rest or ["--file", "workflow.yaml", "--profile", "demo"]
    with tempfile.TemporaryDirectory(prefix="gpt1-remote-") as name, stack(Path(name), cpus=os.cpu_count() or 2) as running:
        kind = running.data_base.partition(":")[0].partition("+")[0]
        print(f"MLflow on {kind} ({running.mlflow}), S3 and Ray ({running.ray.address}) are running", flush=True)
        command = running.command(*running.submit(*words))
        status = subprocess.run(command, cwd=ROOT, env={**os.environ, **running.environment}).returncode
        if status == 0:
            status = compare(running, words, Path(name), (given.against or Path(name, "alone")).absolute())
        print(f"exit status {status}. Runs: {running.mlflow}   Jobs: {running.ray.address}   Logs: {name}", flush=True)
        if sys.stdin.isatty():
            input("Enter ends the servers (and with them all that was made) ")
        return status


def compare(running: Stack, words: list[str], folder: Path, alone: Path) -> int:
    """Run the workflow on this machine alone; 0 when all is the same."""
    print("the same on this machine alone", flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    status = subprocess.run(running.command("run", *words, "--store", alone), cwd=ROOT, env=environment).returncode
    if status:
        return status
    with ui(alone, folder / "ui.log") as uri:
        here = recorded(uri)
    same = [
        _compared("output files", "sha256", outputs(running.copy(folder / "copy", "/record.json")), outputs(alone)),
        _compared("runs in MLflow", "settings, files and figures", recorded(running.mlflow), here),
    ]
    return int(not all(same))


def _compared(what: str, by: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    other = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    print(f"{what}: {len(there)} on the cluster, {len(here)} on one machine, {len(here) - len(other)} the same by {by}")
    print("".join(f"    other: {name}\n" for name in other[:20]), end="")
    return not other


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
