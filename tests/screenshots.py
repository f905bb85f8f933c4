"""The pictures of the documentation, from a store in which the demo has been run: `python -m tests.screenshots STORE`."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.browser import chromium, page, save
from tests.conftest import ROOT

IMAGES = ROOT / "docs" / "images"


def of_report(store: Path) -> None:
    """The first screen of the report, light and dark, and its picture of the workflow."""
    for scheme in ("light", "dark"):
        with page(scheme, offline=True) as opened:
            opened.goto((store / "report.html").resolve().as_uri())
            save(opened, IMAGES / f"report{'' if scheme == 'light' else '-dark'}.png")
            if scheme == "light":
                opened.locator("#workflow").scroll_into_view_if_needed()
                opened.evaluate("document.querySelector('#workflow').scrollIntoView()")
                save(opened, IMAGES / "workflow.png")


@contextmanager
def mlflow(store: Path) -> Iterator[str]:
    """`gpt1 ui` of a store; its address."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipeline.cli", "ui", "--store", str(store), "--port", str(port)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert "http://" in server.stdout.readline(), "the server did not come up"
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=60)


def of_mlflow(store: Path) -> None:
    """The list of runs and the registry."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store.resolve() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gpt1")
    assert experiment is not None, f"{store}: nothing has been recorded there"
    with mlflow(store) as address, page() as opened:
        for name, path, text in (
            ("mlflow-runs", f"#/experiments/{experiment.experiment_id}/runs", "pretrain"),
            ("mlflow-registry", "#/models", "gpt1"),
        ):
            opened.goto(f"{address}/{path}")
            opened.get_by_text(text).first.wait_for()
            opened.wait_for_timeout(3000)
            save(opened, IMAGES / f"{name}.png")


def main() -> None:
    if chromium() is None:
        sys.exit("screenshots: no chromium found; install it, or name it in GPT1_CHROMIUM")
    if len(sys.argv) != 2:
        sys.exit("screenshots: expected one argument, the store of a finished demo")
    store = Path(sys.argv[1])
    of_report(store)
    of_mlflow(store)


if __name__ == "__main__":
    main()
