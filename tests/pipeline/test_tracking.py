"""Recording in a real MLflow: SQLite, and a server that goes away for a while."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from gpt1.errors import UserError
from pipeline.outbox import Outbox
from pipeline.outbox_mirror import OutboxMirror
from pipeline.recorder import UID, default_uri
from pipeline.store import Store
from pipeline.tracking import UPLOAD_LIMIT, Tracker, sync

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs(uri: str) -> dict[str, Any]:
    """All runs, by uid; two with one uid are an error."""
    there = client(uri)
    found = there.search_runs([e.experiment_id for e in there.search_experiments()], max_results=1000)
    by_uid = {run.data.tags[UID].replace("%27", "'"): run for run in found}
    assert len(by_uid) == len(found), "two runs with one uid"
    return by_uid


def curve(uri: str, run: Any, name: str) -> list[tuple[int, float, int]]:
    """(step, value, time in ms) of a curve, doubles and all."""
    return sorted((p.step, p.value, p.timestamp) for p in client(uri).get_metric_history(run.info.run_id, name))


def files_of(store: Path, run: Any) -> set[str]:
    """The files of a run in the store; where it keeps them names no place of this machine."""
    assert run.info.artifact_uri == f"mlflow-artifacts:/gpt1/{run.info.run_id}/artifacts"
    top = store / "mlflow-artifacts" / "gpt1" / run.info.run_id / "artifacts"
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_run_with_everything(tmp_path: Path) -> None:
    store = tmp_path / "a store"
    said: list[str] = []
    (tmp_path / "note.md").write_text("hello")
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(UPLOAD_LIMIT + 1)
    tracker = Tracker(store, info=said.append)
    tracker.start("run", "workflow", tags={"mlflow.source.git.commit": "abc", "long": "x" * 9000}, time=1000.0)
    tracker.start('run/pre[\'a="b"]', "pretrain", "run", time=1001.5)
    uid = 'run/pre[\'a="b"]'
    tracker.params(uid, {f"p{i}": i for i in range(250)} | {"long": "y" * 7000, "odd (name)": 1})
    tracker.metrics(uid, 1, {"loss": 2.0, "tokens/s (all)": 5.0}, time=1002.0)
    tracker.metrics(uid, 2, {"loss": math.nan, "lr": math.inf}, time=1003.0)
    tracker.metrics(uid, 2, {"loss": 7.0}, time=1003.0)
    tracker.artifact(uid, tmp_path / "note.md", "texts")
    tracker.artifact(uid, tmp_path / "big.bin", "texts")
    files = [("m", "file:///m", 5, "ab"), ("n", "s3://n", 6, "cd")]
    tracker.references(uid, [dict(zip(("name", "uri", "size", "sha256"), file, strict=True)) for file in files])
    for _ in range(2):
        tracker.dataset(uid, "books", "d" * 64, "https://example.org/books", "training")
    tracker.tags(uid, {"state": "early"})
    tracker.tags(uid, {"state": "late"})
    tracker.end(uid, "FAILED", time=1004.0)
    tracker.end("run", "FINISHED", time=1005.0)
    assert tracker.run_id(uid, timeout=30) is not None
    assert tracker.close() == 0
    assert said == []

    uri = default_uri(store)
    found = runs(uri)
    parent, run = found["run"], found[uid]
    assert run.info.run_id == tracker.run_id(uid)
    assert (parent.info.status, parent.info.start_time, parent.info.end_time) == ("FINISHED", 1_000_000, 1_005_000)
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FAILED", 1_001_500, 1_004_000)
    assert run.info.run_name == "pretrain"
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.data.tags["long"].endswith("x...")
    assert run.data.params["p249"] == "249"
    assert run.data.params["odd _name_"] == "1"
    assert len(run.data.params["long"]) == 6000
    assert curve(uri, run, "loss")[0] == (1, 2.0, 1_002_000)
    assert [math.isnan(value) for _, value, _ in curve(uri, run, "loss")] == [False, True]
    assert math.isnan(curve(uri, run, "lr")[0][1])
    assert run.data.tags["gpt1.not_finite.lr"] == "inf at step 2"
    assert curve(uri, run, "tokens/s _all_") == [(1, 5.0, 1_002_000)]
    assert run.data.tags["state"] == "late"
    assert (run.data.tags["gpt1.artifacts"], run.data.tags["gpt1.artifacts.bytes"]) == ("2", "11")
    datasets = [(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs]
    assert datasets == [("books", "d" * 36, "training")]
    assert files_of(store, run) == {"artifacts.json", "texts/note.md", "texts/big.bin.reference.json"}


def test_a_resumed_run_continues_its_curves(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    for driver in range(2):
        tracker = Tracker(tmp_path)
        tracker.start(f"run{driver}", "workflow", time=10.0 * driver)
        tracker.start("pretrain", "pretrain", f"run{driver}", time=10.0 * driver + 1)
        for step in range(5 * driver, 10 + 5 * driver):  # the second one redoes steps 5 to 9
            tracker.metrics("pretrain", step, {"loss": float(step)}, time=100.0 * driver + step)
        if driver == 1:
            tracker.end("pretrain", "FINISHED", time=999.0)
        assert tracker.close() == 0
    found = runs(uri)
    assert set(found) == {"run0", "run1", "pretrain"}
    assert found["pretrain"].data.tags["mlflow.parentRunId"] == found["run1"].info.run_id
    assert (found["pretrain"].info.status, found["pretrain"].info.start_time) == ("FINISHED", 1000)
    expected = [(step, float(step), 1000 * (step if step < 10 else 100 + step)) for step in range(15)]
    assert curve(uri, found["pretrain"], "loss") == expected


def test_entries_sent_twice_change_nothing(tmp_path: Path) -> None:
    """As after a crash between sending and acknowledging, even with the map of ids lost."""
    (tmp_path / "note").write_text("n")
    tracker = Tracker(tmp_path)
    tracker.start("o'\"neil", "workflow", time=1.0)
    tracker.params("o'\"neil", {"a": 1})
    for step in range(50):
        tracker.metrics("o'\"neil", step, {"loss": 1 / (step + 1), "bad": math.nan}, time=2.0 + step)
    tracker.artifact("o'\"neil", tmp_path / "note")
    tracker.dataset("o'\"neil", "books", "d", "file:///d", "training")
    tracker.end("o'\"neil", "FINISHED", time=99.0)
    assert tracker.flush() == 0
    uri = default_uri(tmp_path)
    before = runs(uri)["o'\"neil"]
    points = curve(uri, before, "loss")
    tracker._outbox.ack(tracker._outbox.session, 0)
    tracker._recorder.ids.clear()
    assert tracker.close() == 0
    after = runs(uri)["o'\"neil"]
    assert after.to_dictionary()["info"] == before.to_dictionary()["info"]
    assert curve(uri, after, "loss") == points
    assert len(curve(uri, after, "bad")) == 50
    assert len(after.inputs.dataset_inputs) == 1


def test_what_mlflow_refuses_is_said_once_and_holds_nothing_up(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Tracker(tmp_path, info=said.append)
    tracker.start("a", "a")
    tracker.params("a", {"lr": 1, "other": 2})
    tracker.params("a", {"lr": 3, "new": 4})
    tracker.params("a", {"lr": 5})
    tracker.metrics("never started", 1, {"loss": 1.0})
    (tmp_path / "gone").write_text("")
    tracker._outbox.append({"do": "artifact", "uid": "a", "path": str(tmp_path / "missing"), "folder": ""})
    tracker._outbox.append({"do": "metrics", "uid": "a", "step": 1, "time": 1, "values": {"loss": "no number"}})
    tracker.end("a", "FINISHED")
    assert tracker.close() == 0
    run = runs(default_uri(tmp_path))["a"]
    assert run.data.params == {"lr": "1", "other": "2", "new": "4"}
    assert run.info.status == "FINISHED"
    assert len(said) == 4, said
    assert "lr = '1', not '3'" in said[0]


def test_a_run_deleted_in_the_ui_is_made_anew_when_it_is_resumed(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    tracker.start("a", "a")
    assert tracker.close() == 0
    uri = default_uri(tmp_path)
    client(uri).delete_run(tracker.run_id("a"))
    again = Tracker(tmp_path)
    again.start("a", "a")
    again.end("a", "FINISHED")
    assert again.close() == 0
    assert runs(uri)["a"].info.status == "FINISHED"
    assert again.run_id("a") != tracker.run_id("a")


def test_the_runs_of_a_killed_driver_are_closed_but_for_those_that_go_on(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pipeline.tracking import Tracker\n"
        "tracker = Tracker(Path(sys.argv[1]))\n"
        "for uid in ('run', 'clean', 'pretrain'): tracker.start(uid, uid, None if uid == 'run' else 'run', time=1.0)\n"
        "tracker.end('clean', 'FINISHED', time=2.0); tracker.metrics('pretrain', 1, {'loss': 1.0}, time=3.0)\n"
        "tracker.metrics('run', 1, {'share': 0.5}, time=4.0)\n"
        "assert sys.argv[2] == 'unsent' or tracker.flush() == 0\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    for case in ("sent", "unsent"):
        store = tmp_path / case
        driver = subprocess.Popen([sys.executable, "-c", code, str(store), case], stdout=subprocess.PIPE, cwd=ROOT)
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        driver.kill()
        driver.wait()
        driver.stdout.close()
        tracker = Tracker(store)
        assert tracker.close_left_open(keep=["pretrain"]) == ["run"]
        tracker.start("run2", "run2")
        tracker.start("pretrain", "pretrain", "run2")
        assert tracker.flush() == 0
        found = runs(default_uri(store))
        status = {uid: (run.info.status, run.info.end_time) for uid, run in found.items() if uid != "run2"}
        assert status == {"run": ("KILLED", 4000), "clean": ("FINISHED", 2000), "pretrain": ("RUNNING", None)}
        tracker.close()


def test_two_processes_on_a_fresh_store(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.tracking import Tracker\n"
        "tracker = Tracker(Path(sys.argv[1])); uid = sys.argv[2]\n"
        "tracker.start(uid, uid); tracker.metrics(uid, 1, {'loss': 1.0}); tracker.end(uid, 'FINISHED')\n"
        "sys.exit(tracker.close(60))"
    )
    drivers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), uid], cwd=ROOT) for uid in "ab"]
    assert [driver.wait() for driver in drivers] == [0, 0]
    found = {uid: (run.info.status, run.data.metrics["loss"]) for uid, run in runs(default_uri(tmp_path)).items()}
    assert found == dict.fromkeys("ab", ("FINISHED", 1.0))


def test_an_unreachable_server_costs_nothing_and_sync_catches_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{free_port()}")
    tracker = Tracker(tmp_path, info=said.append)
    tracker.start("a", "a", time=1.0)
    for step in range(100):
        tracker.metrics("a", step, {"loss": 1.0 + step}, time=2.0 + step)
    tracker.end("a", "FINISHED", time=200.0)
    assert tracker.run_id("a", timeout=0.1) is None
    assert tracker.close(timeout=3) == 102
    assert len(said) == 1
    assert "takes no records" in said[0]
    assert "secret" not in said[0] + "".join(p.read_text() for p in (tmp_path / "outbox").iterdir())
    missed = sync(tmp_path, timeout=1)
    assert (missed.sent, missed.left) == (0, 102)
    assert missed.trouble
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    done = sync(tmp_path)
    assert (done.sent, done.left, done.trouble) == (102, 0, None)
    run = runs(default_uri(tmp_path))["a"]
    assert (run.info.start_time, run.info.end_time) == (1000, 200_000)
    assert curve(default_uri(tmp_path), run, "loss") == [(step, 1.0 + step, 2000 + 1000 * step) for step in range(100)]
    assert sync(tmp_path).sent == 0
    assert Outbox(tmp_path / "outbox").sessions() == []


class AwayOnce:
    """A mirror of the outbox whose store does not answer at first."""

    def __init__(self) -> None:
        self.asked = 0

    def pull(self) -> None: ...

    def start(self, session: str) -> None: ...

    def stop(self) -> None: ...

    def secure(self, session: str) -> int:
        del session
        self.asked += 1
        if self.asked == 1:
            raise UserError("s3://bucket/store: no answer for 900 s")
        return 1 << 30


class MirroredStore(Store):
    def outbox_mirror(self, folder: Path) -> OutboxMirror:
        del folder
        return cast(OutboxMirror, AwayOnce())


def test_a_store_that_is_away_is_not_taken_for_mlflow(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = Tracker(MirroredStore(tmp_path), info=said.append)
    tracker.start("a", "a")
    tracker.end("a", "FINISHED")
    assert tracker.close() == 0
    assert said[0].startswith("the store takes no records; they wait in ")
    assert "s3://bucket/store: no answer" in said[0]
    assert said[1:] == ["the store takes records again"]


def test_recording_does_not_import_mlflow_into_the_caller(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.tracking import Tracker, sync; from pipeline.ui import serve\n"
        "Tracker(Path(sys.argv[1])).close(); sync(Path(sys.argv[1]))\n"
        "sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["someone/gpt1", "a: b", "gpt1-my.task"])
def test_a_models_name_is_one_that_the_registry_takes(name: str, tmp_path: Path) -> None:
    from mlflow.utils.validation import _validate_model_name

    tracker = Tracker(tmp_path, f"http://127.0.0.1:{free_port()}")
    tracker.start("run", "workflow")
    tracker.model("run", name, tmp_path / "hf", "abc")
    tracker.close(0)
    [session] = tracker._outbox.sessions()
    [entry] = [entry for entry in tracker._outbox.read(session, 10)[0] if entry["do"] == "model"]
    _validate_model_name(entry["name"])
