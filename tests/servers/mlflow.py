"""The MLflow server as infra/mlflow/serve.sh starts it, and as `gpt1 ui` does."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.servers.process import free_port, running, wait_until

TIMED = ("seconds", "tokens_per_second", "tflops", "mfu")
"""Figures that are other ones at every run; so is all of the machine's."""
MACHINE = "system/"


@contextmanager
def mlflow_server(
    log: Path, data_base: str, artifacts: str, environment: Mapping[str, str], port: int | None = None
) -> Iterator[str]:
    """Its address. `port`: the one of a server that was stopped and comes back."""
    port = port or free_port()
    variables = {
        **environment, "MLFLOW_BACKEND_STORE_URI": data_base, "MLFLOW_ARTIFACTS_DESTINATION": artifacts, "PORT": str(port),
        "WORKERS": "1", "PYTHON": sys.executable,
    }  # fmt: skip
    with running([ROOT / "infra" / "mlflow" / "serve.sh"], log, variables) as process:
        wait_until(lambda: _healthy(port), "the MLflow server", process, log)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def ui(store: Path, log: Path) -> Iterator[str]:
    """The address of `gpt1 ui` over a store."""
    port = free_port()
    with running([sys.executable, "-m", "pipeline.cli", "ui", "--store", store, "--port", str(port)], log) as process:
        wait_until(lambda: _healthy(port), "gpt1 ui", process, log)
        yield f"http://127.0.0.1:{port}"


def _healthy(port: int) -> bool:
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def recorded(uri: str) -> dict[str, Any]:
    """What MLflow holds of each stage and each job of a matrix, by cell (of its newest run): status, settings, files, figures, and
    the curve of the loss. All of it is the same wherever the workflow ran."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    [experiment] = [found for found in client.search_experiments() if found.name == "gpt1"]
    found = {}
    for run in reversed(client.search_runs([experiment.experiment_id], max_results=1000)):
        if run.data.tags["gpt1.kind"] in ("stage", "job"):
            files = [item.path for folder in ("", "outputs") for item in client.list_artifacts(run.info.run_id, folder or None)]
            compared = [name for name in run.data.metrics if name not in TIMED and not name.startswith(MACHINE)]
            figures = {name: run.data.metrics[name] for name in compared}
            curve = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
            found[run.data.tags["gpt1.cell"]] = (run.info.status, run.data.params, sorted(files), figures, curve)
    return found
