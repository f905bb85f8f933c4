"""The model in MLflow: written from code, registered once, answering over HTTP on the loopback."""

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import requests

from gpt1.tasks.predictor import Predictor
from gpt1.tasks.registry import task_named
from gpt1.weights.hf import export
from pipeline.execution.worker import Outputs
from pipeline.store.base import Store
from pipeline.tracking.events import EventLog, JobEnded, Point, RunEnded
from pipeline.tracking.live_export import sync
from pipeline.tracking.mlflow_server import MlflowServer, default_uri
from pipeline.tracking.model_registry import Training, register, write_mlflow_model
from tests.conftest import refuses
from tests.gpt1 import weight_samples as samples
from tests.pipeline.conftest import Patch, publish_all
from tests.pipeline.test_tracking import Driver
from tests.servers.mlflow import mlflow_server, ui
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
        ours = Predictor.load(exported)
        prompts = [{"prompt": "the cat"}, {"prompt": "a mouse ate"}]
        expected = ours.answer(prompts, {"tokens": 8, "seed": 5})
        assert post(port, prompts, tokens=8, seed=5).json()["predictions"] == expected
        [found], [answer] = post(port, PAIR).json()["predictions"], ours.answer(PAIR)
        assert found["label"] == answer["label"]
        assert found["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)
        assert post(port, [{"other": "x"}]).status_code == 400


def over_http(store: Path) -> AbstractContextManager[str]:
    data_base, files = f"sqlite:///{store}/server.db", (store / "server").as_uri()
    return mlflow_server(store / "log", data_base, files, {}, free_port())


def connect(store: Path, uri: str) -> MlflowServer:
    return MlflowServer(Store.at(store), uri, lambda line: pytest.fail(line))


def new_run(server: MlflowServer) -> str:
    tags = {"mlflow.source.name": "stages/export", "gpt1.cell": "export"}
    return str(server.client.create_run(server.experiment_id, 1000, tags).info.run_id)


@pytest.mark.parametrize("is_own", [True, False])
def test_registered_once_and_loaded_from_the_registry(
    exported: Path, tmp_path: Path, is_own: bool
) -> None:
    """In the store's own data base, which is then moved, and on a server."""
    import mlflow

    store, name = tmp_path / "store", "some_gpt1_ rte"  # as MLflow takes it
    store.mkdir()
    with nullcontext(default_uri(store)) if is_own else over_http(store) as uri:
        server = connect(store, uri)
        client, run_id, trained_in = server.client, new_run(server), new_run(server)
        for step, value in enumerate((60.0, 71.5, 70.0)):  # the second epoch is the best
            client.log_metric(trained_in, "dev/accuracy", value, 4000 + step, step)
        metrics = {"dev/accuracy": 71.5, "baseline": 50.0}
        training = Training(trained_in, 5000, {"seed": 3}, metrics)
        for _ in range(2):  # again, after a crash or on another machine
            for print_, alias in (("abc/hf", "one-gpu"), ("def/hf", "my profile")):
                aliases, label = ["newest", alias], "some/gpt1: rte"
                register(server, run_id, label, exported, print_, aliases, training)
        versions = {
            version.tags["gpt1.fingerprint"]: version
            for version in client.search_model_versions(f"name = '{name}'")
        }
        models = client.search_logged_models([server.experiment_id])
        assert len(versions) == len(models) == 2
        pointed = [
            client.get_model_version_by_alias(name, alias).version
            for alias in ("newest", "one-gpu", "my_profile")
        ]
        assert pointed == [versions[one].version for one in ("def/hf", "abc/hf", "def/hf")]
        lines = versions["def/hf"].description.splitlines()
        assert lines[2] == "Fingerprint: `def/hf`"
        assert "A Transformer decoder." in lines
        points = client.get_metric_history(trained_in, "dev/accuracy")
        assert [point.value for point in points] == [60.0, 71.5, 70.0], "no new point"
        for model in models:
            assert (model.status, model.model_type, model.source_run_id) == ("READY", "rte", run_id)
            assert {"task": "rte", "seed": "3", "n_layer": "2"}.items() <= model.params.items()
            found = {one.key: (one.value, one.step, one.run_id) for one in model.metrics}
            best = (71.5, 1, trained_in)
            assert found == {"dev/accuracy": best, "baseline": (50.0, 0, run_id)}
            assert model.tags["mlflow.source.name"] == "stages/export"
            if is_own:
                where = f"mlflow-artifacts:/gpt1/models/{model.model_id}/artifacts"
                assert model.artifact_location == where
        if not is_own:
            check_loaded(uri, name, exported)
    if is_own:
        moved = store.rename(tmp_path / "moved %41")
        with ui(moved, tmp_path / "log") as uri:
            check_loaded(uri, name, exported)
    mlflow.set_tracking_uri(None)


def check_loaded(uri: str, name: str, exported: Path) -> None:
    """The registered model answers as the export does, from its address alone."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@newest")
    assert loaded.predict(PAIR)[0]["label"] == Predictor.load(exported).answer(PAIR)[0]["label"]
    about = mlflow.get_logged_model(loaded.metadata.model_id)
    assert mlflow.models.get_model_info(about.model_uri).signature == loaded.metadata.signature


@pytest.mark.parametrize("task", ["", "cola", "rte", "stsb", "storycloze"])
def test_the_input_example_fits_the_model(task: str, tmp_path: Path) -> None:
    """Of each kind of task: what the page shows can be sent as it is."""
    import mlflow

    tuned = samples.tuned(task_named(task)) if task else None
    gpt = tuned.model.gpt if tuned else samples.model()
    export(tmp_path / "hf", gpt, samples.vocabulary(), "", tuned)
    loaded = mlflow.pyfunc.load_model(str(write_mlflow_model(tmp_path / "ml", tmp_path / "hf")))
    [answer] = loaded.predict(loaded.input_example)
    signature = loaded.metadata.signature
    assert set(answer) == set(signature.outputs.input_names()) - ({"text"} if task else set())
    assert "temperature" in [one.name for one in signature.params.params]


def test_an_export_is_sent_with_the_settings_and_results_of_its_training(
    exported: Path, tmp_path: Path
) -> None:
    """The dev accuracy of the best epoch is the point that the fine-tuning's run has."""
    cell, model = "finetune[task=rte,seed=3]", "tuned/finetune-task-rte-seed-3"
    driver = Driver(Store.at(tmp_path), "run", "1")
    trained = {"settings": {"task": "rte", "seed": 3}, "summary": {"accuracy": 71.5, "n": 277}}
    written = {
        "inputs": {cell: "f"}, "identity": {"inputs": {"finetune": ["f"]}}, "settings": {},
        "input_digests": {"f": "d" * 64}, "summary": {"models": {model: "gpt1-rte"}},
    }  # fmt: skip
    for job, stage, print_, record, curve, files in (
        (cell, "finetune", "f", trained, (60.0, 71.5, 70.0), ()),
        ("export", "export", "e", written, (), exported.iterdir()),
    ):  # fmt: skip
        facts = {"cell": job, "stage": stage, "fingerprint": print_, "is_last": False}
        driver.job(facts=facts, **record["settings"])
        points = EventLog(driver.store, f"{stage}/{print_}/1")
        for step, value in enumerate(curve):
            points.write(Point(time=1000.0 + step, step=step, values={"dev_accuracy": value}))
        points.close()
        outputs = Outputs(driver.store, tmp_path / stage / print_ / "1")
        for file in files:
            path = outputs.declare(f"{model}/{file.name}", volatile=False)
            path.write_bytes(file.read_bytes())
        publish_all(driver.store, outputs, cell=job, finished=2000.0, **record)
        driver.write(JobEnded, cell=job, status="FINISHED")
    driver.write(RunEnded, status="FINISHED")
    driver.die()
    said = list[str]()
    assert (sync(driver.store, info=said.append).missing, said) == (0, [])
    server = connect(tmp_path, default_uri(tmp_path))
    runs = {run.info.run_name: run for run in server.client.search_runs([server.experiment_id])}
    [found] = server.client.search_logged_models([server.experiment_id])
    assert found.source_run_id == runs["export"].info.run_id
    assert {"seed": "3", "n": "277", "task": "rte"}.items() <= found.params.items()
    [point] = found.metrics
    assert (point.key, point.step, point.run_id) == ("dev/accuracy", 1, runs[cell].info.run_id)
    assert server.client.get_model_version_by_alias("gpt1-rte", "newest").version == 1


class Killed(BaseException):
    """As a killed process: nothing catches it."""


class Dying:
    """A server, or its client, that ends its process after the n-th call that changes something."""

    def __init__(self, real: Any, calls: Iterator[int], last: int) -> None:
        self._given = real, calls, last

    def __getattr__(self, name: str) -> Any:
        real, calls, last = self._given
        found = getattr(real, name)
        if name == "client":
            return Dying(found, calls, last)
        if not name.startswith(("create", "log_", "set_", "finalize")):
            return found

        def call(*given: Any, **named: Any) -> Any:
            result = found(*given, **named)
            if next(calls) == last:
                raise Killed(name)
            return result

        return call


def test_killed_after_any_call_and_repeated_leaves_one_of_each(
    exported: Path, tmp_path: Path
) -> None:
    server = connect(tmp_path, default_uri(tmp_path))
    run_id, killed = new_run(server), list[str]()
    training = Training(run_id, 5000, {}, {"dev/accuracy": 71.5})
    for last in itertools.count(1):
        name, given = f"gpt1-{last}", (exported, f"{last}/hf", ["newest"], training)
        dying: Any = Dying(server, itertools.count(1), last)
        try:
            register(dying, run_id, name, *given)
        except Killed as where:
            killed.append(str(where))
        else:
            break
        register(server, run_id, name, *given)
        tag = f"tags.`gpt1.fingerprint` = '{last}/hf'"
        [model] = server.client.search_logged_models([server.experiment_id], tag)
        [version] = server.client.search_model_versions(f"name = '{name}'")
        newest = server.client.get_model_version_by_alias(name, "newest")
        assert (model.status, newest.version) == ("READY", version.version)
        assert (version.source, len(model.metrics)) == (model.artifact_location, 1)
        assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": name, "version": 1}]
        linked = server.client.get_run(run_id).outputs.model_outputs
        assert [one.model_id for one in linked].count(model.model_id) == 1
    assert killed == [
        "create_logged_model", "log_model_files", "log_batch", "finalize_logged_model",
        "log_outputs", "create_registered_model", "create_model_version", "set_logged_model_tags",
        "set_registered_model_alias",
    ]  # fmt: skip


def test_requests_that_cannot_be_answered_say_why(exported: Path) -> None:
    predictor = Predictor.load(exported)
    for row, parameters, message in (
        ({"other": 1}, {}, "row 1: has neither `prompt` nor `text`"),
        ({"prompt": "a"}, {"token": 3}, "unknown parameters"),
        ({"text": "a"}, {}, "rte, example 1: 1 texts, expected 2"),
    ):
        refuses(message, predictor.answer, [row], parameters)
