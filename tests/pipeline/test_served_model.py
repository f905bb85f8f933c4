"""The model in MLflow: written from code, registered once, answering over HTTP on the loopback."""

import sys
from pathlib import Path
from typing import Any

import pytest
import requests
from pipeline.tracking.tracker import Tracker

from gpt1.serve import Answerer
from gpt1.tasks.table import task_named
from gpt1.weights.hf import export
from pipeline.tracking.mlflow_server import default_uri
from pipeline.tracking.model_registry import write_mlflow_model
from tests.conftest import refuses
from tests.gpt1 import weight_samples as samples
from tests.pipeline.conftest import Patch
from tests.servers.mlflow import ui
from tests.servers.process import answers, free_port, running

pytestmark = pytest.mark.slow
ODD = "a%20b?c #d"  # a legal name, and no part of an address as it is
PAIR = [{"text": "the cat ate", "text_b": "it ate"}]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned model as `gpt1 export hf` writes it."""
    folder = tmp_path_factory.mktemp("export") / ODD / "hf"
    tuned, card = samples.tuned(task_named("rte")), "---\n---\n# GPT-1\n\nA Transformer decoder.\n"
    export(folder, tuned.model.gpt, samples.vocabulary(), card, tuned)
    return folder


def post(port: int, rows: list[dict[str, Any]], **parameters: int) -> Any:
    body = {"dataframe_records": rows, "params": parameters}
    with requests.Session() as session:
        session.trust_env = False  # no proxy
        return session.post(f"http://127.0.0.1:{port}/invocations", json=body, timeout=120)


@pytest.mark.chaos
def test_it_answers_over_http(exported: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """In another folder and without gpt1 on the path: the model brings its code."""
    folder, port = write_mlflow_model(tmp_path / "a %b?c;d" / "model", exported), free_port()
    assert not list(folder.rglob("*.pkl"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    words = f"-m mlflow models serve --env-manager local --host 127.0.0.1 --port {port} --model-uri"
    command, log = [sys.executable, *words.split(), folder.as_uri()], tmp_path / "log"
    silent = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with running(command, log, silent, tmp_path, lambda: answers(port)):
        ours = Answerer.load(exported)
        prompts = [{"prompt": "the cat"}, {"prompt": "a mouse ate"}]
        expected = ours.answer(prompts, {"tokens": 8, "seed": 5})
        assert post(port, prompts, tokens=8, seed=5).json()["predictions"] == expected
        [found], [answer] = post(port, PAIR).json()["predictions"], ours.answer(PAIR)
        assert found["label"] == answer["label"]
        assert found["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
        assert post(port, [{"other": "x"}]).status_code == 400


def test_registered_once_and_loaded_from_the_registry(exported: Path, tmp_path: Path) -> None:
    import mlflow

    store = tmp_path / "store"
    for _ in range(2):  # a second run, of the same exports
        tracker = Tracker(store)
        tracker.start("export-1", "export")
        tracker.model("export-1", "some/gpt1: rte", exported, "abc/hf", ["newest", "one-gpu"])
        tracker.model("export-1", "some/gpt1: rte", exported, "def/hf", ["newest", "my profile"])
        tracker.model("export-1", "gone", tmp_path / "not-there", "ghi")
        tracker.end("export-1", "FINISHED")
        assert tracker.close(timeout=180) == 0
    client, name = mlflow.MlflowClient(default_uri(store)), "some_gpt1_ rte"  # as MLflow takes it
    versions = client.search_model_versions(f"name = '{name}'")
    assert sorted(one.tags["gpt1.fingerprint"] for one in versions) == ["abc/hf", "def/hf"]
    assert len({version.source for version in versions}) == 2
    aliases = ("newest", "one-gpu", "my_profile")
    pointed = [client.get_model_version_by_alias(name, alias) for alias in aliases]
    assert [one.tags["gpt1.fingerprint"] for one in pointed] == ["def/hf", "abc/hf", "def/hf"]
    assert "Transformer decoder" in pointed[0].description
    assert not client.search_registered_models("name = 'gone'")
    with ui(store, tmp_path / "log") as uri:
        mlflow.set_tracking_uri(uri)
        loaded = mlflow.pyfunc.load_model(f"models:/{name}@newest")
    mlflow.set_tracking_uri(None)
    assert loaded.predict(PAIR)[0]["label"] == Answerer.load(exported).answer(PAIR)[0]["label"]


def test_requests_that_cannot_be_answered_say_why(exported: Path) -> None:
    answerer = Answerer.load(exported)
    for row, parameters, message in (
        ({"other": 1}, {}, "row 1: has neither `prompt` nor `text`"),
        ({"prompt": "a"}, {"token": 3}, "unknown parameters"),
        ({"text": "a"}, {}, "rte, example 1: 1 texts, expected 2"),
    ):
        refuses(message, answerer.answer, [row], parameters)
