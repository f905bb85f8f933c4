"""The MLflow server as infra/mlflow/serve.sh starts it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT
from tests.servers.process import free_port, running, wait_until


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


def _healthy(port: int) -> bool:
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
