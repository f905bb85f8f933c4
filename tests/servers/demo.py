"""`make remote-demo`: the demo on a cluster of this machine: PostgreSQL, S3, MLflow, Ray.

Starts the servers, submits the workflow, and waits for Enter so that one can look around. Other
words are those of `gpt1 submit`, such as `--file FILE`. That the bytes are those of one machine
alone is tested by tests/e2e/test_remote.py.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import ROOT
from tests.e2e.workflow import command
from tests.servers.stack import stack


def main() -> int:
    """The exit status of the submission."""
    words = sys.argv[1:] or ["--file", "workflow.yaml", "--profile", "demo"]
    folder = tempfile.TemporaryDirectory(prefix="gpt1-remote-")
    with folder as name, stack(Path(name), os.cpu_count() or 2) as both:
        kind = both.data_base.partition(":")[0].partition("+")[0]
        print(f"MLflow on {kind} ({both.mlflow}), S3 and Ray ({both.ray.address}) are running")
        env = {**os.environ, **both.environment}
        status = subprocess.run(command(*both.submit(*words)), cwd=ROOT, env=env).returncode
        print(f"exit status {status}. Runs: {both.mlflow} Jobs: {both.ray.address} Logs: {name}")
        if sys.stdin.isatty():
            input("Enter ends the servers (and with them all that was made) ")
        return status


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
