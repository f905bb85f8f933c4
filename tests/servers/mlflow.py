"""The MLflow server as infra/mlflow/serve.sh starts it, and as `gpt1 ui` does."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.servers.process import free_port, get, running

TIMED = ("seconds", "tokens_per_second", "tflops", "mfu", "system/")
"""How the names of figures begin that differ from run to run."""


@contextmanager
def mlflow_server(
    log: Path, data_base: str, artifacts: str, environment: Mapping[str, str], port: int
) -> Iterator[str]:
    """Its address."""
    variables = {
        **environment, "MLFLOW_BACKEND_STORE_URI": data_base, "PORT": str(port), "WORKERS": "1",
        "MLFLOW_ARTIFACTS_DESTINATION": artifacts, "PYTHON": sys.executable,
    }  # fmt: skip
    there, command = f"http://127.0.0.1:{port}", [ROOT / "infra" / "mlflow" / "serve.sh"]
    with running(command, log, variables, ready=lambda: get(f"{there}/health")):
        yield there


@contextmanager
def ui(store: Path, log: Path, cwd: Path = ROOT) -> Iterator[str]:
    """The address of `gpt1 ui` over a store."""
    there = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "pipeline.cli", "ui", "--store", store, "--port", port]

    def ready() -> bool:
        return "MLflow shows" in log.read_text() and get(f"{there}/health") is not None

    with running(command, log, cwd=cwd, ready=ready):
        yield there


def recorded(uri: str) -> dict[str, Any]:
    """Status, settings, files, figures and curve of each cell's newest run, the same anywhere."""
    from mlflow import MlflowClient

    client, found = MlflowClient(uri), {}
    [experiment] = [one for one in client.search_experiments() if one.name == "gpt1"]
    for run in reversed(client.search_runs([experiment.experiment_id], max_results=1000)):
        if run.data.tags["gpt1.kind"] in ("stage", "job"):
            name, data = run.info.run_id, run.data
            listed = [*client.list_artifacts(name), *client.list_artifacts(name, "outputs")]
            figures = {key: x for key, x in data.metrics.items() if not key.startswith(TIMED)}
            curve = [(one.step, one.value) for one in client.get_metric_history(name, "train/loss")]
            files = sorted(item.path for item in listed)
            found[data.tags["gpt1.cell"]] = (run.info.status, data.params, files, figures, curve)
    return found
