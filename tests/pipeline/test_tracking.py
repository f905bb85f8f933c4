"""What MLflow has of a run, by MLflow's own client: in the store's SQLite and on a real server."""

import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpt1.errors import UserError
from pipeline.cli.ui import serve
from pipeline.store.base import Store
from pipeline.tracking.mlflow_server import default_uri
from pipeline.tracking.recorder import UID
from pipeline.tracking.tracker import UPLOAD_LIMIT, Tracker, sync
from tests.conftest import ROOT, refuses, write
from tests.pipeline.conftest import Move, Patch
from tests.servers.mlflow import mlflow_server
from tests.servers.process import answers, free_port, running, serving, wait_until


@pytest.fixture(autouse=True)
def no_server(monkeypatch: Patch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs(uri: str, tag: str = UID) -> dict[str, Any]:
    """All runs, by a tag; two with one uid are an error."""
    there = client(uri)
    experiments = [experiment.experiment_id for experiment in there.search_experiments()]
    found = there.search_runs(experiments, max_results=1000)
    assert len({run.data.tags[UID] for run in found}) == len(found), "two runs with one uid"
    return {run.data.tags.get(tag, "").replace("%27", "'"): run for run in found}


def curve(uri: str, run: Any, name: str = "loss") -> list[tuple[int, float, int]]:
    """(step, value, time in ms) of a curve, doubles and all."""
    points = client(uri).get_metric_history(run.info.run_id, name)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def files_of(store: Path, run: Any) -> set[str]:
    """The files of a run in the store; where it keeps them names no place of this machine."""
    assert run.info.artifact_uri == f"mlflow-artifacts:/gpt1/{run.info.run_id}/artifacts"
    top = store / "mlflow-artifacts" / "gpt1" / run.info.run_id / "artifacts"
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


def test_a_run_with_everything(tmp_path: Path) -> None:
    store, said, uid = tmp_path / "a store", list[str](), 'run/pre[\'a="b"]'
    write(tmp_path, {"note.md": "hello", "big.bin": b""})
    os.truncate(tmp_path / "big.bin", UPLOAD_LIMIT + 1)
    tracker = Tracker(store, info=said.append)
    tracker.start("run", "workflow", tags={"long": "x" * 9000}, time=1000.0)
    tracker.start(uid, "pretrain", "run", time=1001.5)
    tracker.params(uid, {f"p{n}": n for n in range(250)} | {"long": "y" * 7000, "odd (name)": 1})
    tracker.params(uid, {"p1": 3, "new": 4})  # a setting that has changed
    tracker.metrics(uid, 1, {"loss": 2.0, "tokens/s (all)": 5.0}, time=1002.0)
    for values in ({"loss": math.nan, "lr": math.inf}, {"loss": 7.0}):
        tracker.metrics(uid, 2, values, time=1003.0)
    tracker.metrics("never started", 1, {"loss": 1.0})
    for name in ("note.md", "big.bin"):
        tracker.artifact(uid, tmp_path / name, "texts")
    tracker.artifact(uid, (tmp_path / "gone").as_uri(), size=1)
    tracker.references(uid, [{"name": "m", "uri": "s3://m", "size": 5, "sha256": "ab"}])
    for state in ("early", "late"):
        tracker.dataset(uid, "books", "d" * 64, "https://example.org/books", "training")
        tracker.tags(uid, {"state": state})
    tracker.end(uid, "FAILED", time=1004.0)
    tracker.end("run", "FINISHED", time=1005.0)
    assert tracker.close(300) == 0
    assert len(said) == 3, "what MLflow refuses holds nothing up, and is said"

    uri = default_uri(store)
    parent, run = runs(uri)["run"], runs(uri)[uid]
    info = [[one.info.status, one.info.start_time, one.info.end_time] for one in (parent, run)]
    assert info == [["FINISHED", 1_000_000, 1_005_000], ["FAILED", 1_001_500, 1_004_000]]
    assert (run.info.run_name, run.info.run_id) == ("pretrain", tracker.run_id(uid))
    tags, params = run.data.tags, run.data.params
    assert (tags["mlflow.parentRunId"], tags["state"]) == (parent.info.run_id, "late")
    assert parent.data.tags["long"].endswith("x...")
    assert len(params["long"]) == 6000
    assert {"p1": "1", "new": "4", "p249": "249", "odd _name_": "1"}.items() <= params.items()
    assert curve(uri, run)[0] == (1, 2.0, 1_002_000)
    assert [math.isnan(value) for _, value, _ in curve(uri, run)] == [False, True]
    assert math.isnan(curve(uri, run, "lr")[0][1])
    assert tags["gpt1.not_finite.lr"] == "inf at step 2"
    assert curve(uri, run, "tokens/s _all_") == [(1, 5.0, 1_002_000)]
    [item] = run.inputs.dataset_inputs
    assert (item.dataset.digest, item.tags[0].value) == ("d" * 36, "training")
    expected = {"artifacts.json", "texts/note.md", "texts/big.bin.reference.json"}
    assert files_of(store, run) == expected


def test_a_resumed_run_continues_its_curves(tmp_path: Path) -> None:
    """The second driver does steps 5 to 9 again; the last finds that a user has deleted the run."""
    uri = default_uri(tmp_path)
    for driver in range(3):
        tracker = Tracker(tmp_path)
        tracker.start(f"run{driver}", "workflow")
        tracker.start("pretrain", "pretrain", f"run{driver}", time=10.0 * driver + 1)
        for step in range(5 * driver, 10 + 5 * driver):
            tracker.metrics("pretrain", step, {"loss": float(step)}, time=100.0 * driver + step)
        tracker.end("pretrain", "FINISHED", time=999.0)
        assert tracker.close(300) == 0
        run, parent = (runs(uri)[uid] for uid in ("pretrain", f"run{driver}"))
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        if driver == 1:
            assert (run.info.status, run.info.start_time) == ("FINISHED", 1000)
            times = [1000 * (step if step < 10 else 100 + step) for step in range(15)]
            assert curve(uri, run) == [(step, step, when) for step, when in enumerate(times)]
            client(uri).delete_run(run.info.run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 19.0})


def test_two_processes_on_a_fresh_store(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.tracking.tracker import Tracker\n"
        "tracker = Tracker(Path(sys.argv[1])); uid = sys.argv[2]\n"
        "assert not {'mlflow', 'torch'} & {*sys.modules}, 'they take seconds'\n"
        "tracker.start(uid, uid)\n"
        "tracker.metrics(uid, 1, {'loss': 1.0}); tracker.end(uid, 'FINISHED')\n"
        "sys.exit(tracker.close(300))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    drivers = [subprocess.Popen([*command, uid], cwd=ROOT) for uid in "ab"]
    assert [driver.wait() for driver in drivers] == [0, 0]
    found = runs(default_uri(tmp_path))
    assert {uid: run.data.metrics["loss"] for uid, run in found.items()} == {"a": 1, "b": 1}


def test_what_waited_is_sent_from_a_moved_store(tmp_path: Path, monkeypatch: Patch) -> None:
    """Files that wait may be damaged, and MLflow's data base be in the way."""
    old, new, said = tmp_path / "old", tmp_path / "new", list[str]()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    tracker = Tracker(old, info=said.append)
    write(old, {"note.md": "hello"})
    tracker.start("a", "a", time=1.0)
    tracker.artifact("a", old / "note.md")
    for step in range(100):
        tracker.metrics("a", step, {"loss": 1.0 + step}, time=2.0 + step)
    assert tracker.run_id("a", timeout=0.1) is None
    assert (tracker.close(timeout=3), len(said)) == (102, 1)
    files = [path for path in old.rglob("*") if path.is_file()]
    assert "secret" not in said[0] + "".join(path.read_text() for path in files)
    for lines in old.glob("outbox/*.jsonl"):
        garbage = b'\x00garbage\n[1]\n{"do":"metrics","uid":"a","st'
        lines.write_bytes(lines.read_bytes() + garbage)
    assert sync(old, timeout=1).left >= 102
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    old.rename(new)
    (new / "mlflow.db").mkdir()
    missed = sync(new, timeout=15)
    assert (missed.sent, missed.left > 100) == (0, True)
    assert "unable to open database file" in str(missed.trouble)
    (new / "mlflow.db").rmdir()
    again = Tracker(new)  # makes the data base
    again.start("b", "b")
    wait_until(lambda: again.run_id("b") is not None, "a run")
    again.close()
    assert sync(new, timeout=300).left == 0
    found = runs(default_uri(new))
    expected = [(step, 1.0 + step, 2000 + 1000 * step) for step in range(100)]
    assert curve(default_uri(new), found["a"]) == expected
    statuses = [f"{uid} {run.info.status}" for uid, run in found.items()]
    assert sorted(statuses) == ["a KILLED", "b KILLED"], "by none of their drivers"
    assert files_of(new, found["a"]) == {"note.md"}
    assert not old.exists()
    assert sync(new).sent == 0


# A server that goes away, and a driver that is killed


@contextmanager
def lossy_proxy(port: int) -> Iterator[str]:
    """The address of a proxy before a server: of each kind of request the first answer is lost."""
    seen: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with suppress(OSError), closing(HTTPConnection("127.0.0.1", port)) as connection:
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data, kind = answer.read(), self.path.partition("?")[0]
                if kind not in seen and self.command != "GET":
                    seen.add(kind)
                    return  # the connection is closed without an answer
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()  # HTTP/1.0: the body ends with the connection
                self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = pass_on

    with serving(Handler) as there:
        yield f"http://{there}"
    assert any(kind.endswith("/runs/create") for kind in seen)


@pytest.mark.slow
def test_no_point_is_lost_or_doubled(tmp_path: Path) -> None:
    """Answers are lost, and the server is away for a while: points wait for it."""
    port, base, artifacts = free_port(), f"sqlite:///{tmp_path}/db", (tmp_path / "a").as_uri()
    with lossy_proxy(port) as uri:
        tracker = Tracker(tmp_path / "store", uri)
        tracker.start("run", "workflow")
        for first in (0, 100):
            for step in range(first, first + 100):
                tracker.metrics("run", step, {"loss": 1 / (step + 1)}, time=float(step))
            if first:
                tracker.end("run", "FINISHED")
            assert tracker.flush(1) > 0, "nothing answers"
            with mlflow_server(tmp_path / "log", base, artifacts, {}, port):
                assert tracker.flush(300) == 0
        assert tracker.close() == 0
    run = runs(base)["run"]
    points = [(step, 1 / (step + 1), 1000 * step) for step in range(200)]
    assert (curve(base, run), run.info.status) == (points, "FINISHED")


def test_a_dead_hosts_points_are_sent_from_another(
    s3_store: str, tmp_path: Path, monkeypatch: Patch, another_host: Move
) -> None:
    """The second continues the run and logs again what it knows; the first comes back last."""
    data_base, home = f"sqlite:///{tmp_path / 'mlflow.db'}", os.environ["GPT1_CACHE"]
    code = (
        "import os, sys; from pipeline.store.base import Store\n"
        "from pipeline.tracking.tracker import Tracker\n"
        "tracker = Tracker(Store.at(sys.argv[1]), 'http://127.0.0.1:9')\n"
        "tracker.start('run', 'workflow')\n"
        "for step in (10, 20): tracker.metrics('run', step, {'loss': float(step)}, step)\n"
        "tracker.flush(8); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, s3_store], cwd=ROOT).returncode == 9

    another_host()
    tracker = Tracker(Store.at(s3_store), data_base)
    tracker.start("run", "workflow")
    for step in (10, 20, 30):
        tracker.metrics("run", step, {"loss": float(step)}, step + 1)
    tracker.end("run", "FINISHED")
    assert tracker.close(300) == 0
    for cache in (os.environ["GPT1_CACHE"], home, f"{tmp_path}/third"):
        monkeypatch.setenv("GPT1_CACHE", cache)
        done, run = sync(Store.at(s3_store), data_base), runs(data_base)["run"]
        assert (done.left, done.closed, run.info.status) == (0, 0, "FINISHED")
        points = [(10, 10.0, 10_000), (20, 20.0, 20_000), (30, 30.0, 31_000)]
        assert curve(data_base, run) == points


# gpt1 ui


def test_nothing_to_show_and_a_port_in_use(tmp_path: Path) -> None:
    refuses("no runs recorded", serve, tmp_path)
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(UserError, match="--port"):
        serve(tmp_path, port=other.getsockname()[1])


@pytest.mark.chaos
def test_the_ui_shows_a_run_and_killed_leaves_no_process(tmp_path: Path) -> None:
    tracker, port = Tracker(tmp_path), free_port()
    tracker.start("run", "workflow")
    assert tracker.close(300) == 0
    command = [sys.executable, "-m", "pipeline.cli", "ui", "--store", tmp_path, "--port", port]

    def has_ended() -> bool:
        words = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return not answers(port) and not any(str(port) in each for each in words)

    with running(command, tmp_path / "log", ready=lambda: answers(port)) as process:
        assert list(runs(f"http://127.0.0.1:{port}")) == ["run"]
        process.kill()
        wait_until(has_ended, "its end")
