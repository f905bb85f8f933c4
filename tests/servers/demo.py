"""`make remote-demo`: the demo on a cluster of this machine, compared with one machine alone.

Starts PostgreSQL, S3, MLflow and Ray, submits the workflow, runs the same in a folder without any
of them, and compares sha256s and what MLflow holds. Exit status 1 when something differs. Other
words are those of `gpt1 run`, such as `--file FILE`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.e2e.workflow import command, outputs
from tests.servers.mlflow import recorded, ui
from tests.servers.stack import Stack, stack


def main() -> int:
    """Submit, compare, and then wait for Enter so that one can look around."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    against = "the store of the run on one machine; what is done stays (make run: store)"
    parser.add_argument("--against", type=Path, help=against)
    given, rest = parser.parse_known_args()
    words = rest or ["--file", "workflow.yaml", "--profile", "demo"]
    cpus, folder = os.cpu_count() or 2, tempfile.TemporaryDirectory(prefix="gpt1-remote-")
    with folder as name, stack(Path(name), cpus) as both:
        kind = both.data_base.partition(":")[0].partition("+")[0]
        print(f"MLflow on {kind} ({both.mlflow}), S3 and Ray ({both.ray.address}) are running")
        status = _run(both.environment, *both.submit(*words))
        if status == 0:
            alone = (given.against or Path(name, "alone")).absolute()
            status = compare(both, words, Path(name), alone)
        print(f"exit status {status}. Runs: {both.mlflow} Jobs: {both.ray.address} Logs: {name}")
        if sys.stdin.isatty():
            input("Enter ends the servers (and with them all that was made) ")
        return status


def compare(running: Stack, words: list[str], folder: Path, alone: Path) -> int:
    """Run the workflow on this machine alone; 0 when all is the same."""
    print("the same on this machine alone", flush=True)
    if status := _run({}, "run", *words, "--store", alone):
        return status
    with ui(alone, folder / "ui.log") as uri:
        here = recorded(uri)
    files = outputs(running.copy(folder / "copy", "/record.json"))
    same = _compared("output files", "sha256", files, outputs(alone))
    same &= _compared("MLflow's runs", "settings, files, figures", recorded(running.mlflow), here)
    return int(not same)


def _run(environment: Mapping[str, str], *words: str | Path) -> int:
    variables = {k: value for k, value in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    env = {**variables, **environment}
    return subprocess.run(command(*words), cwd=ROOT, env=env).returncode


def _compared(what: str, by: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    other = sorted(name for name in {*there, *here} if there.get(name) != here.get(name))
    same = len(here) - len(other)
    print(f"{what}: {len(there)} on the cluster, {len(here)} on one machine, {same} alike by {by}")
    print("".join(f"    other: {name}\n" for name in other[:20]), end="")
    return not other


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
