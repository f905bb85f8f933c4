"""A workflow on a store on S3: what is made is what is made in a folder; how many requests planning takes; a store far away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import objects
from pipeline.objects import Objects
from pipeline.outbox import Outbox
from pipeline.plan import Plan, State
from pipeline.store import Store
from pipeline.tracking import PACE, Tracker, sync
from tests.conftest import ROOT
from tests.pipeline.conftest import S3, on_another_host
from tests.pipeline.inline import plan_of, run_inline
from tests.servers.proxy import proxied

TOY = Path(__file__).parent / "toy" / "workflow.yaml"


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    folder = tmp_path / "numbers"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"{number}.txt").write_text(str(number))
    return folder


def plan(numbers: Path, store: str | Path, *assignments: str) -> Plan:
    return plan_of(TOY, store, f"numbers.source={numbers}", *assignments)


def digests(made: Plan) -> dict[str, str | None]:
    return {cell: entry.artifact.digest if entry.artifact else None for cell, entry in made.entries.items()}


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """The requests of this process to its store, by what they ask for."""
    found: Counter[str] = Counter()

    def count(event_name: str, **_: Any) -> None:
        found[event_name.rpartition(".")[2]] += 1

    events = objects._client(os.getpid()).meta.events
    events.register("before-send.s3", count)
    try:
        yield found
    finally:
        events.unregister("before-send.s3", count)


def test_the_same_digests_as_in_a_folder_and_nothing_twice(
    numbers: Path, tmp_path: Path, s3_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(plan(numbers, tmp_path / "store"))
    assert run_inline(plan(numbers, s3_store)) == ["numbers", "total[factor=1]", "total[factor=2]"]
    on_another_host(monkeypatch, tmp_path)
    again = plan(numbers, s3_store)
    assert again.to_run == []
    assert digests(again) == digests(plan(numbers, tmp_path / "store"))
    changed = plan(numbers, s3_store, "total.factor=3")
    assert changed.entries["total"].state is State.NEVER
    assert run_inline(plan(numbers, s3_store, "numbers.add=5"))[0] == "numbers"


def test_one_more_file_costs_one_more_part_on_any_host(
    numbers: Path, tmp_path: Path, s3_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(plan(numbers, s3_store))
    (numbers / "4.txt").write_text("4")
    on_another_host(monkeypatch, tmp_path)
    changed = plan(numbers, s3_store)
    run_inline(changed)
    record = changed.store.record(changed.entries["numbers"].cell.uses, changed.entries["numbers"].fingerprint)
    assert record is not None
    assert record["parts"] == {"made": 1, "reused": 3}


@pytest.mark.slow
def test_a_plan_of_a_thousand_artifacts_takes_few_requests(numbers: Path, tmp_path: Path, s3_store: str) -> None:
    """First time on a host: a request for a thousand objects listed, and one a record. From then on the listings alone."""
    many = "total.matrix.factor=[" + ",".join(map(str, range(1, 1001))) + "]"
    local = plan(numbers, tmp_path / "store", many)
    run_inline(local)
    there, root = Objects.at(s3_store), local.store.root
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_relative_to(root / "cache")]
    Store.at(s3_store)._all(lambda path: there.upload(path.relative_to(root).as_posix(), path), files)  # type: ignore[attr-defined]
    pages = 3 + len(files) // 1000  # three kinds: numbers, its parts, total
    with counted() as first:
        assert plan(numbers, s3_store, many).to_run == []
    assert first["ListObjectsV2"] <= pages
    assert first["GetObject"] <= 1001
    assert sum(first.values()) <= 1 + pages + 1001, first
    with counted() as second:
        assert plan(numbers, s3_store, many).to_run == []
    assert sum(second.values()) <= 1 + pages, second
    print(f"requests of a plan of 1,001 artifacts: {dict(first)}, then {dict(second)}")


@pytest.mark.slow
def test_a_store_far_away_that_pauses(numbers: Path, tmp_path: Path, s3_store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(os.environ["AWS_ENDPOINT_URL"], delay=0.05) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        objects._client.cache_clear()
        made = plan(numbers, s3_store)
        proxy.pause(30)
        run_inline(made)
        assert plan(numbers, s3_store).to_run == []
        there = digests(plan(numbers, s3_store))
    run_inline(plan(numbers, tmp_path / "store"))
    assert there == digests(plan(numbers, tmp_path / "store"))


def test_the_outbox_of_a_dead_host_is_sent_from_another(s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    nowhere, data_base = "http://127.0.0.1:9", f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(Store.at(s3_store), nowhere)
    tracker.start("run", "workflow")
    tracker.metrics("run", 1, {"loss": 2.5}, time=1.0)
    assert tracker._mirror is not None
    tracker._mirror.stop()  # all that ever left this host
    monkeypatch.setattr("pipeline.outbox_mirror.alive", lambda _: False)
    on_another_host(monkeypatch, tmp_path)
    done = sync(Store.at(s3_store), data_base, timeout=600)
    assert (done.left, done.closed) == (0, 1)
    [run] = MlflowClient(data_base).search_runs(["1"])
    assert (run.info.run_name, run.info.status, run.data.metrics) == ("workflow", "KILLED", {"loss": 2.5})
    on_another_host(monkeypatch, tmp_path)
    assert Outbox(Store.at(s3_store).root / "outbox").sessions() == []
    assert sync(Store.at(s3_store), data_base).sent == 0, "what was sent is known to all hosts"
    tracker._stop = True


def test_a_point_is_in_the_store_before_mlflow_has_it(s3: S3, s3_store: str, tmp_path: Path) -> None:
    """Else another host that goes on with the run could draw it a second time."""
    from mlflow import MlflowClient

    data_base = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(Store.at(s3_store), data_base)
    tracker.start("run", "workflow")
    run_id = tracker.run_id("run", timeout=120)
    assert run_id is not None
    s3[1].send_signal(signal.SIGSTOP)
    tracker.metrics("run", 1, {"loss": 2.5})
    time.sleep(2 * PACE)
    drawn = MlflowClient(data_base).get_run(run_id).data.metrics
    s3[1].send_signal(signal.SIGCONT)
    assert drawn == {}
    assert tracker.close(120) == 0
    assert MlflowClient(data_base).get_run(run_id).data.metrics == {"loss": 2.5}


DRIVER = """
import sys, time
from pipeline.store import Store
from pipeline.tracking import Tracker
tracker = Tracker(Store.at(sys.argv[1]), sys.argv[2])
tracker.start("run", "workflow")
tracker.metrics("run", 10, {"loss": 10.0})
assert tracker.flush(120) == 0
print("ready", flush=True)
for step in (20, 30):
    sys.stdin.readline()
    tracker.metrics("run", step, {"loss": float(step)})
    print(step, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_driver_killed_while_the_store_is_away_and_its_host_back_later(
    s3: S3, s3_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host goes on with the run and tells again what it knows; the first one's own lines come last."""
    from mlflow import MlflowClient

    data_base, home = f"sqlite:///{tmp_path / 'mlflow.db'}", os.environ["GPT1_CACHE"]
    command = [sys.executable, "-c", DRIVER, s3_store, data_base]
    driver = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdin is not None
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    print("20", file=driver.stdin, flush=True)
    driver.stdout.readline()
    s3[1].send_signal(signal.SIGSTOP)
    print("30", file=driver.stdin, flush=True)
    driver.stdout.readline()
    time.sleep(2 * PACE)
    driver.kill()
    driver.wait()
    s3[1].send_signal(signal.SIGCONT)

    def curve() -> tuple[str, list[tuple[int, float]]]:
        client = MlflowClient(data_base)
        [run] = client.search_runs(["1"])
        return run.info.status, [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]

    on_another_host(monkeypatch, tmp_path)
    tracker = Tracker(Store.at(s3_store), data_base)
    tracker.start("run", "workflow")
    for step in (10, 20, 30, 40):
        tracker.metrics("run", step, {"loss": float(step)})
    tracker.end("run", "FINISHED")
    assert tracker.close(120) == 0
    whole = "FINISHED", [(step, float(step)) for step in (10, 20, 30, 40)]
    assert curve() == whole
    monkeypatch.setenv("GPT1_CACHE", home)
    done = sync(Store.at(s3_store), data_base)
    assert (done.left, done.closed) == (0, 0)
    assert curve() == whole


def test_files_are_uploaded_to_mlflow_from_a_host_that_never_had_them(
    s3_store: str, numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    run_inline(plan(numbers, s3_store))
    found = plan(numbers, s3_store).entries["total[factor=1]"].artifact
    assert found is not None
    on_another_host(monkeypatch, tmp_path)
    store, data_base = Store.at(s3_store), f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = Tracker(store, data_base)
    tracker.start("run", "total")
    name, file = next(iter(found.files.items()))
    tracker.artifact("run", store.file_address(file), "outputs", file.size)
    tracker.artifact("run", "s3://store-bucket/nothing/there", "outputs", 1)
    tracker.end("run", "FINISHED")
    assert tracker.close(600) == 0
    [run] = MlflowClient(data_base).search_runs(["1"])
    listed = MlflowClient(data_base).list_artifacts(run.info.run_id, "outputs")
    assert [item.path for item in listed] == [f"outputs/{Path(name).name}"]
