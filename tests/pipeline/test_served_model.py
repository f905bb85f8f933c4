"""The model in MLflow: written from code, registered once, answering over HTTP on the loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.serve import Answerer
from gpt1.tasks.table import task_named
from gpt1.weights.hf import export
from pipeline.outbox import Outbox
from pipeline.recorder import Recorder, default_uri
from pipeline.registry import write_mlflow_model
from pipeline.store import Store
from pipeline.tracking import Tracker
from tests.gpt1 import weight_samples as samples
from tests.servers.mlflow import ui

pytestmark = pytest.mark.slow
ODD = "a%20b?c #d"  # a legal name, and no part of an address as it is
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned model as `gpt1 export hf` writes it."""
    folder = tmp_path_factory.mktemp("export") / ODD / "hf"
    tuned = samples.tuned(task_named("rte"))
    export(folder, tuned.model.gpt, samples.vocabulary(), "---\n---\n# GPT-1\n\nA Transformer decoder.\n", tuned)
    return folder


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(port: int, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with NO_PROXY.open(request, timeout=60) as answer:
        return json.loads(answer.read())


def await_server(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with NO_PROXY.open(f"http://127.0.0.1:{port}/ping", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def test_a_served_model_answers_over_http(exported: Path, tmp_path: Path) -> None:
    """In another folder and without gpt1 on the path: the model brings its code."""
    folder, port = write_mlflow_model(tmp_path / "a %b?c;d" / "model", exported), free_port()
    assert not list(folder.rglob("*.pkl"))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_DISABLE_TELEMETRY": "true", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--port", str(port)]
    log = tmp_path / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--model-uri", folder.as_uri()],
            cwd=tmp_path,
            env=environment,
            stdout=out,
            stderr=out,
            process_group=0,
        )
    try:
        await_server(port, server, log)
        ours = Answerer.load(exported)
        prompts = [{"prompt": "the cat"}, {"prompt": "a mouse ate"}]
        found = post(port, {"dataframe_records": prompts, "params": {"tokens": 8, "seed": 5}})["predictions"]
        assert found == ours.answer(prompts, {"tokens": 8, "seed": 5})
        pair = [{"text": "the cat ate", "text_b": "it ate"}]
        [predicted] = post(port, {"dataframe_records": pair})["predictions"]
        [expected] = ours.answer(pair)
        assert predicted["label"] == expected["label"]
        assert predicted["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(port, {"dataframe_records": [{"other": "x"}]})
        assert refused.value.code == 400
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def test_registered_once_through_the_outbox_and_loaded_from_the_registry(exported: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    kept = Store.at(store)
    tracker = Tracker(kept, default_uri(store))
    tracker.start("export-1", "export")
    for _ in range(2):
        tracker.model("export-1", "gpt1-rte", exported, "abc/hf", ["newest", "one-gpu"])
    tracker.model("export-1", "gpt1-rte", exported, "def/hf", ["newest", "my profile"])
    tracker.model("export-1", "gone", tmp_path / "not-there", "ghi")
    tracker.end("export-1", "FINISHED")
    assert tracker.close(timeout=180) == 0

    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient(default_uri(store))
    versions = client.search_model_versions("name = 'gpt1-rte'")
    assert sorted(version.tags["gpt1.fingerprint"] for version in versions) == ["abc/hf", "def/hf"]
    assert len({version.source for version in versions}) == 2
    pointed = {alias: client.get_model_version_by_alias("gpt1-rte", alias) for alias in ("newest", "one-gpu", "my_profile")}
    prints = {alias: version.tags["gpt1.fingerprint"] for alias, version in pointed.items()}
    assert prints == {"newest": "def/hf", "one-gpu": "abc/hf", "my_profile": "def/hf"}
    assert "Transformer decoder" in pointed["newest"].description
    assert not client.search_registered_models("name = 'gone'")
    with ui(store, tmp_path / "log") as uri:
        mlflow.set_tracking_uri(uri)
        loaded = mlflow.pyfunc.load_model("models:/gpt1-rte/1")
    mlflow.set_tracking_uri(None)
    pair = [{"text": "the cat ate", "text_b": "it ate"}]
    assert loaded.predict(pair)[0]["label"] == Answerer.load(exported).answer(pair)[0]["label"]
    again = Recorder(kept, default_uri(store), Outbox(store / "outbox"), print)  # a line sent twice changes nothing
    again.apply([{"do": "model", "uid": "export-1", "name": "gpt1-rte", "path": str(exported), "fingerprint": "abc/hf"}])
    assert len(client.search_model_versions("name = 'gpt1-rte'")) == 2


def test_requests_that_cannot_be_answered_say_why(exported: Path) -> None:
    answerer = Answerer.load(exported)
    for rows, parameters, message in (
        ([{"other": 1}], {}, "row 1: neither `prompt` nor `text`"),
        ([{"prompt": "a"}], {"token": 3}, "unknown parameters"),
        ([{"prompt": "a"}], {"top_p": 2}, "top_p is 2.0"),
        ([{"text": "a"}], {}, "rte, example 1: 1 texts, expected 2"),
    ):
        with pytest.raises(UserError, match=message):
            answerer.answer(rows, parameters)
