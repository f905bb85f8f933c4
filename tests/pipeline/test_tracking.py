"""What MLflow has of a store, by its own client: in the store's SQLite and on a real server."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psutil
import pytest

from gpt1.errors import UserError
from pipeline.cli.ui import serve
from pipeline.execution.worker import Outputs
from pipeline.store.base import Store
from pipeline.store.lease import RUNS, Leases
from pipeline.tracking import events
from pipeline.tracking.exporter import UID, Exporter, NotAlone
from pipeline.tracking.live_export import sync
from pipeline.tracking.mlflow_server import MlflowServer, default_uri
from pipeline.tracking.names import split_summary
from pipeline.tracking.system_metrics import record_system_metrics
from tests.conftest import ROOT, refuses
from tests.pipeline.conftest import Move, Patch, publish_all
from tests.servers.mlflow import mlflow_server
from tests.servers.process import answers, free_port, running, serving, wait_until

Curve = list[tuple[int, float, int]]


@pytest.fixture(autouse=True)
def no_server(tmp_path: Path, empty_data_base: Path, monkeypatch: Patch) -> None:
    """No server is named, and a store in this folder has its data base already."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_data_base, tmp_path)


class Driver:
    """Writes what a driver of one job, `train`, and the job's process write."""

    def __init__(self, store: Store, run: str, attempt: str, began: float = 1000.0) -> None:
        self.store, self.run, self.attempt, self.time = store, run, attempt, began
        self.leases = Leases(store, run)
        self.leases.take([f"{RUNS}/{run}"])
        self.events = events.EventLog(store, f"{RUNS}/{run}")
        self.points = events.EventLog(store, f"train/print/{attempt}")
        tags = {"gpt1.kind": "workflow", "gpt1.run": run}
        self.write(events.RunStarted, name=f"name of {run}", profile="w", tags=tags, params={})

    def write(self, event: type[events.Event], **rest: Any) -> None:
        self.events.write(event(time=self.time, **rest))

    def job(
        self, kind: type[events.JobFacts] = events.JobStarted, tokens: int = 0,
        facts: Mapping[str, Any] = {}, **params: Any,
    ) -> None:  # fmt: skip
        common = {"cell": "train", "stage": "train", "fingerprint": "print", "is_last": True}
        common |= {"group": None, "axes": {}, **facts}
        self.write(
            kind, attempt=self.attempt, params=params, tags={"gpt1.why": "x" * 9000},
            tokens_per_step=tokens, withdrawn=0, run="run", **common,
        )  # fmt: skip

    def log(self, *steps: int, **values: Any) -> None:
        for step in steps:
            found = values or {"loss": step + 0.5}
            self.points.write(events.Point(time=self.time + step, step=step, values=found))

    def publish(self, size: int = 1, **summary: Any) -> None:
        """A file `note.md`, and one of `size` bytes."""
        outputs = Outputs(self.store, self.store.root / "train" / "print" / self.attempt)
        for name, content in (("texts/note.md", b"hello"), ("big.bin", bytes(size))):
            outputs.declare(name, volatile=False).write_bytes(content)
        facts = {"seconds": 3.5, "identity": {"files": {"books": "d" * 64}}}
        publish_all(
            self.store, outputs, summary, cell="train", finished=self.time + 50, **facts
        )  # fmt: skip

    def end(self, status: str = "FINISHED") -> None:
        error = "" if status == "FINISHED" else "why"
        self.write(events.JobEnded, cell="train", status=status, error=error)
        self.write(events.RunEnded, status=status)
        self.die()

    def die(self) -> None:
        """As by a kill: nothing more is said."""
        self.points.close()
        self.events.close()
        self.leases.release()


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


def curve(uri: str, name: str = "train/loss", uid: str = "train-print") -> Curve:
    """(step, value, time in ms) of a curve, doubles and all."""
    points = client(uri).get_metric_history(runs(uri)[uid].info.run_id, name)
    return sorted((point.step, point.value, point.timestamp) for point in points)


def steps(uri: str) -> list[int]:
    return [step for step, _, _ in curve(uri)]


def files_of(store: Path, run: Any) -> set[str]:
    """The files of a run in the store; where it keeps them names no place of this machine."""
    assert run.info.artifact_uri == f"mlflow-artifacts:/gpt1/{run.info.run_id}/artifacts"
    top = store / "mlflow-artifacts" / "gpt1" / run.info.run_id / "artifacts"
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


def test_a_job_with_everything(tmp_path: Path) -> None:
    store, said = Store.at(tmp_path / "a store's"), list[str]()
    driver = Driver(store, "run", "1")
    params = {f"p{n}": n for n in range(250)} | {"long": "y" * 7000, "odd (name)": 1}
    driver.job(tokens=512, **params)
    driver.log(1, 2, **{"loss": 2.0, "tokens/s (all)": 5.0})
    driver.log(3, loss=math.nan, lr="inf")
    driver.publish(10_000_001, accuracy=50.5)
    driver.end()
    synced = sync(store, info=said.append)
    assert (synced.sent, synced.missing, synced.trouble, said) == (1, 0, "", [])

    uri = default_uri(store.root)
    parent, run = runs(uri)["run"], runs(uri)["train-print"]
    assert (parent.info.run_name, parent.info.status) == ("name of run", "FINISHED")
    other = Driver(store, "later", "2")
    other.job(events.JobCached)
    other.end()
    sync(store)
    assert runs(uri)["later"].data.metrics == parent.data.metrics
    assert (run.info.run_name, run.info.start_time, run.info.end_time) == ("train", 10**6, 1050_000)
    tags, found = run.data.tags, run.data.params
    assert tags["mlflow.parentRunId"] == parent.info.run_id
    assert (tags["gpt1.why"][-4:], len(found["long"])) == ("x...", 6000)
    assert {"p1": "1", "p249": "249", "odd _name_": "1"}.items() <= found.items()
    assert curve(uri)[:2] == [(1, 2.0, 1_001_000), (2, 2.0, 1_002_000)]
    assert math.isnan(curve(uri)[2][1])
    assert math.isnan(curve(uri, "train/lr")[0][1])
    assert tags["gpt1.not_finite.train/lr"] == "inf at step 3"
    assert [step for step, _, _ in curve(uri, "over_tokens/train/loss")] == [512, 1024, 1536]
    assert len(curve(uri, "tokens/s _all_")) == 2
    assert (run.data.metrics["dev/accuracy"], parent.data.metrics["dev/accuracy"]) == (50.5, 50.5)
    [item] = run.inputs.dataset_inputs
    assert (item.dataset.name, item.tags[0].value) == ("books", "source")
    expected = {"artifacts.json", "record.json", "outputs/texts/note.md"}
    assert files_of(store.root, run) == {*expected, "outputs/big.bin.reference.json"}


def test_a_job_is_found_by_its_name_in_the_workflow(tmp_path: Path) -> None:
    """`transfer` is a stage of the kind `train`: a matrix with a table of its jobs, and alone."""
    driver = Driver(Store.at(tmp_path), "run 1", "1")
    driver.job(facts={"cell": "transfer[n=1]", "group": "transfer", "axes": {"n": 1}})
    driver.publish(accuracy=50.5)
    driver.end()
    driver = Driver(Store.at(tmp_path), "run 2", "2")
    driver.job(facts={"cell": "transfer", "fingerprint": "other"})
    driver.end()
    sync(tmp_path)
    found = runs(default_uri(tmp_path))
    stages = {uid: run.data.tags.get("gpt1.stage") for uid, run in found.items()}
    jobs = dict.fromkeys(("run 1/transfer", "train-print", "train-other"), "transfer")
    assert stages == {"run 1": None, "run 2": None, **jobs}
    *_, row = found["run 1/transfer"].data.tags["mlflow.note.content"].splitlines()
    link = f"[open](#/runs/{found['train-print'].info.run_id})"
    assert [cell.strip("\u00a0 ") for cell in row.strip("| ").split("|")] == ["1", link, "50.5"]


def test_a_resumed_job_continues_its_curves(tmp_path: Path) -> None:
    """The second attempt, whose host's clock is an hour behind, does steps 5 to 9 again; a rollback
    does 14 again, and logs 12 once more as it was. Settings have changed.
    """
    store, uri = Store.at(tmp_path), default_uri(tmp_path)
    first = Driver(store, "run1", "1", 10_000.0)
    first.job(p=1)
    first.log(*range(10))
    first.die()
    assert sync(store).missing == 0
    assert runs(uri)["train-print"].info.status == "KILLED"
    second = Driver(store, "run2", "2", 6_400.0)
    second.job(p=2)
    second.log(*range(5, 15))
    second.log(12)
    second.log(14, loss=0.25)
    second.end("FAILED")
    for file in (None, "mlflow.db"):  # the second time from nothing
        if file:
            (tmp_path / file).unlink()
        assert sync(store).missing == 0
        run, parent = (runs(uri)[uid] for uid in ("train-print", "run2"))
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.info.status, run.data.params["p"]) == ("FAILED", "1")
        assert (run.data.tags["gpt1.changed.p"], run.data.tags["gpt1.error"]) == ("2", "why")
        old = [(step, step + 0.5, 1000 * (10_000 + step)) for step in range(10)]
        new = [(step, step + 0.5, 1000 * (6_400 + step)) for step in range(10, 15)]
        assert curve(uri) == sorted([*old, *new, (14, 0.25, 6_414_000)])


def test_a_job_that_was_deleted_and_is_made_again(tmp_path: Path) -> None:
    for number in "12":
        driver = Driver(Store.at(tmp_path), f"run{number}", number)
        driver.job()
        driver.log(*range(int(number)))
        driver.publish()
        driver.end()
        assert sync(tmp_path).sent == 1
        assert steps(default_uri(tmp_path)) == [*range(int(number))]
        shutil.rmtree(tmp_path / "train")


@pytest.mark.parametrize(("harm", "is_kept"), [
    (Path.unlink, False), (lambda file: os.truncate(file, 0), False),
    (lambda file: os.truncate(file, file.stat().st_size // 2), True),
    (lambda file: file.write_bytes(b"?" * 100 + file.read_bytes()[100:]), True),
], ids=["gone", "empty", "cut", "no header"])  # fmt: skip
def test_a_data_base_that_is_gone_or_damaged_is_filled_again(
    tmp_path: Path, harm: Callable[[Path], object], is_kept: bool
) -> None:
    """While a job runs."""
    store, uri, said = Store.at(tmp_path), default_uri(tmp_path), list[str]()
    driver = Driver(store, "run", "1")
    driver.job()
    driver.log(*range(5))
    assert sync(store).trouble == ""
    assert steps(uri) == [0, 1, 2, 3, 4]
    harm(tmp_path / "mlflow.db")
    driver.log(*range(5, 10))
    driver.publish()
    driver.end()
    assert sync(store, info=said.append).missing == 0
    assert (steps(uri), runs(uri)["train-print"].info.status) == ([*range(10)], "FINISHED")
    kept = list(tmp_path.glob("mlflow.db.damaged-*"))
    assert len(said) == len(kept) == is_kept, said


def test_a_suspended_driver_doubles_nothing(tmp_path: Path) -> None:
    """Another host takes its job over, and exports. Then it goes on, logs the same steps, and finds
    what it had read already exported; at last both end.
    """
    store, uri = Store.at(tmp_path), default_uri(tmp_path)
    sends = {"who": "run1"}

    def exporter(driver: Driver) -> Exporter:
        def check() -> None:
            if sends["who"] != driver.run:
                raise NotAlone

        return Exporter(store, MlflowServer(store, uri, print), driver.leases, check, print)

    first = Driver(store, "run1", "1", 10_000.0)
    first.job()
    first.log(*range(5))
    suspended = exporter(first)
    suspended.export()
    sends["who"] = "run2"
    second = Driver(store, "run2", "2", 6_400.0)
    second.job()
    second.log(*range(3, 8))
    other = exporter(second)
    other.export()
    first.log(*range(5, 9))
    with pytest.raises(NotAlone):
        suspended.export()
    second.log(*range(8, 12))
    other.export()
    second.publish()
    second.end()
    other.export()
    assert steps(uri) == [*range(12)]
    sends["who"] = "run1"
    first.log(12)
    first.end()
    suspended.export()
    assert sync(store).missing == 0
    assert steps(uri) == [*range(12)], "the job had ended"
    assert {run.info.status for run in runs(uri).values()} == {"FINISHED"}


def test_a_full_disk_loses_no_event(tmp_path: Path) -> None:
    """A file may have so many bytes, and then more; what was written half is not glued on."""
    code = (
        "import resource, sys; from pipeline.store.base import Store\n"
        "from pipeline.tracking.events import EventLog, RunStarted\n"
        "said = []; log = EventLog(Store.at(sys.argv[1]), 'runs/run', said.append)\n"
        "_, most = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))\n"
        "def write(n): log.write(RunStarted(name=str(n), profile='', tags={}, params={}))\n"
        "for step in range(100): write(step)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))\n"
        "write(100); log.close(); print(len(said))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    [file] = tmp_path.glob("runs/run/events/*")
    names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
    assert names == [*map(str, range(101))]


def test_a_moved_store_a_new_server_and_damaged_lines(tmp_path: Path, monkeypatch: Patch) -> None:
    """The server is away at first, and its password is not written down."""
    old, new, said = tmp_path / "old", tmp_path / "new", list[str]()
    driver = Driver(Store.at(old), "run", "1")
    driver.job()
    driver.log(*range(100))
    driver.publish()
    driver.end()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    assert (sync(old, patience=2, info=said.append).trouble != "", len(said)) == (True, 1)
    texts = [path.read_bytes() for path in old.rglob("*") if path.is_file()]
    assert "secret" not in said[0]
    assert not any(b"secret" in text for text in texts)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for lines in (*old.glob("*/*/*/events/*.jsonl"), *old.glob("runs/*/events/*.jsonl")):
        first = b"" if "runs" in lines.parts else lines.read_bytes()
        rest = lines.read_bytes().partition(b"\n")[2] if "runs" in lines.parts else b""
        odd = b'\x00garbage\n[1]\n{"time":1,"event":"job"}\n'
        lines.write_bytes(odd + first + rest + b'{"time":1,"step":7,"va')
    old.rename(new)
    (new / "mlflow.db").mkdir()
    assert "unable to open" in sync(new, patience=2).trouble
    (new / "mlflow.db").rmdir()
    said.clear()
    assert (sync(new, info=said.append).sent, len(said)) == (1, 8)
    assert runs(default_uri(new))["run"].info.run_name == "run", "its first line is lost"
    server = f"sqlite:///{tmp_path / 'other.db'}"
    assert (sync(new, server).sent, sync(new, server).sent) == (1, 0)
    for uri in (default_uri(new), server):
        assert steps(uri) == [*range(100)]
    assert "outputs/texts/note.md" in files_of(new, runs(default_uri(new))["train-print"])
    assert not old.exists()


def test_two_processes_on_a_fresh_store(tmp_path: Path) -> None:
    code = (
        "import sys; from pipeline.store.base import Store\n"
        "from pipeline.tracking.live_export import LiveExport\n"
        "from tests.pipeline.test_tracking import *\n"
        "uid = sys.argv[2]; store = Store.at(sys.argv[1]); driver = Driver(store, uid, '1')\n"
        "assert not {'mlflow', 'torch'} & {*sys.modules}, 'they take seconds'\n"
        "export = LiveExport(store, uid, print); export.start()\n"
        "driver.write(events.RunEnded, status='FINISHED'); driver.events.flush()\n"
        "sys.exit(bool(export.close(lambda: True)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    drivers = [subprocess.Popen([*command, uid], cwd=ROOT) for uid in "ab"]
    assert [driver.wait() for driver in drivers] == [0, 0]
    found = runs(default_uri(tmp_path / "store"))
    statuses = {uid: run.info.status for uid, run in found.items()}
    assert statuses == {"a": "FINISHED", "b": "FINISHED"}


def test_figures_of_a_summary_are_parameters_or_metrics() -> None:
    params = {"sample": True, "variant": "full", "seed": 1, "train_rows": 5}
    metrics = {
        "accuracy": "dev/accuracy", "f1/held_out": "dev/f1/held_out", "dev_ids": "dev/ids",
        "train_loss": "train/loss", "skipped_batches": "train/skipped_batches", "words": "words",
        "validation_bits_per_byte": "val/bpb", "gradient_norm": "train/grad_norm",
    }  # fmt: skip
    figures = {**dict.fromkeys(metrics, 3), "rules": {"ftfy": 4}, "lost": None, "few": ["x"]}
    found = dict.fromkeys(metrics.values(), 3.0)
    assert split_summary({**params, **figures}) == (params, found)


def test_system_metrics_come_while_the_block_lasts_and_end_with_it() -> None:
    kept, began = list[Any](), int(time.time())

    def log(step: int, values: Mapping[str, float]) -> None:
        kept.append((step, values))

    with record_system_metrics(log):
        pass
    with record_system_metrics(log, first=0.01, period=0.05):
        assert not kept
        wait_until(lambda: len(kept) >= 2, "two points")
    count, (last, found) = len(kept), kept[-1]
    time.sleep(0.2)
    assert len(kept) == count
    assert began <= kept[0][0] <= last <= time.time()
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    assert {name.partition("/")[0] for name in found} == {"system"}


# A server that goes away, and a host that is gone


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
    """Answers are lost, and the server is away for a while."""
    port, base, artifacts = free_port(), f"sqlite:///{tmp_path}/db", (tmp_path / "a").as_uri()
    store = Store.at(tmp_path / "store")
    with lossy_proxy(port) as uri:
        driver = Driver(store, "run", "1")
        driver.job()
        for first in (0, 100):
            driver.log(*range(first, first + 100))
            if first:
                driver.end()
            assert sync(store, uri, 2).trouble, "nothing answers"
            with mlflow_server(tmp_path / "log", base, artifacts, {}, port):
                assert sync(store, uri, 300).trouble == ""
    assert (steps(base), runs(base)["run"].info.status) == ([*range(200)], "FINISHED")


def test_a_dead_hosts_points_are_sent_from_another(
    s3_store: str, tmp_path: Path, monkeypatch: Patch, another_host: Move
) -> None:
    """The second continues the job and logs again what it knows."""
    monkeypatch.setattr("pipeline.tracking.events.PIECE", 200)
    data_base = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = (
        "import os, sys; from tests.pipeline.test_tracking import *\n"
        "driver = Driver(Store.at(sys.argv[1]), 'run1', '1'); driver.job(); driver.log(10, 20)\n"
        "driver.points.flush(); driver.events.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, s3_store], cwd=ROOT).returncode == 9

    another_host()
    monkeypatch.setattr("pipeline.store.lease.EXPIRY", 1.0)
    second = Driver(Store.at(s3_store), "run2", "2", 2000.0)
    second.job()
    for step in (10, 20, 30):
        second.log(step)
        second.points.flush()
    second.end()
    for _ in range(2):
        done = sync(Store.at(s3_store), data_base)
        assert (done.missing, done.trouble) == (0, "")
        statuses = {uid: run.info.status for uid, run in runs(data_base).items()}
        assert statuses == {"run1": "KILLED", "run2": "FINISHED", "train-print": "FINISHED"}
        found = [(10, 10.5, 1_010_000), (20, 20.5, 1_020_000), (30, 30.5, 2_030_000)]
        assert curve(data_base) == found
        another_host()


# gpt1 ui


def test_nothing_to_show_and_a_port_in_use(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "store")
    refuses("no runs recorded", serve, store)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(UserError, match="--port"):
        serve(store, port=other.getsockname()[1])
    said: list[str] = []
    refuses("no runs recorded", serve, store, "0.0.0.0", free_port(), said.append)
    assert [line.partition(";")[0] for line in said] == ["warning: MLflow has no password"]


@pytest.mark.chaos
def test_the_ui_shows_a_run_and_killed_leaves_no_process(tmp_path: Path) -> None:
    """MLflow had not been filled."""
    Driver(Store.at(tmp_path), "run", "1").end()
    port = free_port()
    command = [sys.executable, "-m", "pipeline.cli", "ui", "--store", tmp_path, "--port", port]

    def has_ended() -> bool:
        words = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return not answers(port) and not any(str(port) in each for each in words)

    with running(command, tmp_path / "log", ready=lambda: answers(port)) as process:
        assert list(runs(f"http://127.0.0.1:{port}")) == ["run"]
        process.kill()
        wait_until(has_ended, "its end")
