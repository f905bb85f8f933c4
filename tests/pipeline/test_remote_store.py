"""A store on S3: the rules of the store in a folder, word for word, against a real server (moto's)."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from pipeline import cache, objects
from pipeline.lease import HeldError, Leases
from pipeline.objects import Objects
from pipeline.parts import Outputs
from pipeline.store import Failure, Store
from tests.pipeline.conftest import S3, on_another_host
from tests.servers.process import free_port


@pytest.fixture
def url(s3_store: str) -> str:
    return s3_store


def publish(url: str, value: str, gate: Any = None, stage: str = "stage") -> bool:
    store = Store.at(url)
    attempt = store.new_attempt(stage, "print")
    outputs = Outputs(attempt)
    with outputs.open("values/value.txt") as file:
        file.write(value.encode())
    with outputs.open("values/beside.txt") as file:
        file.write(value.upper().encode())
    if gate is not None:
        gate.wait()
    return store.publish(stage, "print", outputs.close(), {"attempt": attempt.name, "cell": "cell", "identity": {}})


def published(url: str) -> Any:
    found = Store.at(url).artifact("stage", "print")
    assert found is not None
    return found


def _race(url: str, value: str, gate: Any, results: Any) -> None:
    results.put((value, publish(url, value, gate)))


def test_of_many_writers_exactly_one_publishes(url: str) -> None:
    fork = multiprocessing.get_context("fork")
    gate, results = fork.Barrier(6), fork.Queue()
    racers = [fork.Process(target=_race, args=(url, f"value-{i}", gate, results)) for i in range(6)]
    for racer in racers:
        racer.start()
    ended = dict(results.get(timeout=120) for _ in racers)
    for racer in racers:
        racer.join()
    assert [published(url).path("values/value.txt").read_text()] == [value for value, won in ended.items() if won]


def test_a_late_writer_changes_nothing(url: str) -> None:
    assert publish(url, "first")
    store = Store.at(url)
    before = store.record("stage", "print")
    assert not publish(url, "second")
    assert store.record("stage", "print") == before


def test_a_lost_answer_does_not_lose_the_race(url: str) -> None:
    """The write was done and its answer never came: the repeated request is refused, and still it was ours."""
    there = Objects.at(url)
    assert there.create("word", b"mine")
    assert there.create("word", b"mine")
    assert not there.create("word", b"yours")


def test_another_host_fetches_what_it_reads_and_checks_it(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(url, "value")
    on_another_host(monkeypatch, tmp_path)
    found = pickle.loads(pickle.dumps(published(url)))
    assert not list(Store.at(url).root.glob("stage/**/*.txt")), "records are read without files"
    assert found.path("values/value.txt").read_text() == "value"
    assert (found.path("values/value.txt").parent / "beside.txt").read_text() == "VALUE", "a file comes with those beside it"


def test_a_damaged_object_is_never_read(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(url, "value")
    store, found = Store.at(url), published(url)
    assert store.damage(found) is None
    key = store.file_address(found.files["values/value.txt"]).removeprefix(f"{url}/")
    Objects.at(url).write(key, b"eulav")
    on_another_host(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"values/value.txt: has the sha256 .* its record says .* make it again"):
        found.path("values/value.txt")
    assert not list(Path(os.environ["GPT1_CACHE"]).rglob("value.txt"))
    Objects.at(url).write(key, b"value!")
    assert store.damage(found) == "file values/value.txt has 6 bytes in the store, its record says 5"
    Objects.at(url).remove([key])
    assert store.damage(found) == "file values/value.txt is missing from the store"


def test_a_record_taken_back_is_kept_and_counted(url: str) -> None:
    publish(url, "value")
    store = Store.at(url)
    store.withdraw("stage", "print")
    assert store.artifact("stage", "print") is None
    assert store.withdrawn("stage", "print") == 1
    assert publish(url, "value again")
    assert published(url).path("values/value.txt").read_text() == "value again"


def test_attempts_and_why_they_failed_are_seen_elsewhere(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.at(url)
    first = store.new_attempt("stage", "print")
    store.fail(first, "out of paper", user=True)
    on_another_host(monkeypatch, tmp_path)
    [attempt] = Store.at(url).attempts("stage", "print")
    assert Store.at(url).failure(attempt) == Failure("out of paper", stopped=False)
    assert attempt != first


def test_paths_travel_to_other_hosts(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(url, "value")
    found = published(url)
    path = found.path("values/value.txt")
    arguments = {"file": str(path), "folders": [str(path.parent)], "other": "value", "attempt": path.parent}
    travel = Store.at(url).travel
    assert travel is not None
    on_another_host(monkeypatch, tmp_path)
    here = pickle.loads(pickle.dumps(travel)).here(arguments)
    assert here["other"] == "value"
    for there in (Path(here["file"]), Path(here["folders"][0]) / "value.txt", here["attempt"] / "value.txt"):
        assert there.is_relative_to(os.environ["GPT1_CACHE"])
        assert there.read_text() == "value"


def test_the_cache_is_bounded_and_forgets_the_oldest(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        store = Store.at(url)
        attempt = store.new_attempt("stage", f"print-{number}")
        outputs = Outputs(attempt)
        with outputs.open("big.bin") as file:
            file.write(bytes(1000))
        store.publish("stage", f"print-{number}", outputs.close(), {"attempt": attempt.name})
    root = Store.at(url).root
    kept = store.artifact("stage", "print-0")
    assert kept is not None
    for number, path in enumerate(sorted(root.glob("stage/*/*/big.bin"))):
        os.utime(path, (number, number))
    under_way = store.new_attempt("stage", "under-way")
    (under_way / "draft.bin").write_bytes(bytes(1000))
    os.utime(under_way / "draft.bin", (0, 0))
    assert kept.path("big.bin").stat().st_mtime > 4, "reading counts as use"
    used = sum(path.stat().st_size for path in root.glob("stage/**/*") if path.is_file())
    assert cache.evict(root.parent, used - 1500, grace=60) == 2000
    left = sorted(path.parent.parent.name for path in root.glob("stage/*/*/big.bin"))
    assert left == ["print-0", "print-3"]
    assert (under_way / "draft.bin").exists()
    assert cache.evict(root.parent, 0, grace=float("inf")) == 0, "what was just used stays"
    gone = store.artifact("stage", "print-1")
    assert gone is not None
    assert gone.path("big.bin").read_bytes() == bytes(1000), "what was forgotten is fetched again"
    monkeypatch.setenv("GPT1_CACHE_GB", "much")
    with pytest.raises(UserError, match="GPT1_CACHE_GB=much: expected a number"):
        cache.bound()


def test_a_lease_keeps_others_out_until_its_heart_stops(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.at(url)
    words = [store.lease("a", "1"), store.lease("b", "1")]
    first, second = Leases("run-1"), Leases("run-2")
    first.take(words)
    with pytest.raises(HeldError, match=f"b is being made by run run-1 .process {os.getpid()}"):
        second.take([store.lease("c", "1"), store.lease("b", "1")])
    assert store.lease("c", "1").read() is None
    monkeypatch.setitem(first._word, "host", "another")  # as if it were one of another machine that has stopped
    first._stop.set()
    word = store.lease("a", "1")
    stopped = {**(word.read() or {}), "host": "another"}
    assert word.seize(stopped)
    monkeypatch.setattr("pipeline.lease.EXPIRY", 0.0)
    third = Leases("run-3")
    third.take([store.lease("a", "1")])
    assert (store.lease("a", "1").read() or {})["run"] == "run-3"
    third.release()


def test_two_who_find_a_dead_lease_take_it_once(url: str) -> None:
    dead = {"run": "dead", "token": "t"}
    one, two = Store.at(url).lease("a", "1"), Store.at(url).lease("a", "1")
    assert one.create(dead)
    assert one.read()
    assert two.read()
    assert one.seize({"run": "one", "token": "1"})
    assert not two.seize({"run": "two", "token": "2"})


def test_a_server_paused_while_files_go_up_and_down(
    s3: S3, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, process = s3
    monkeypatch.setattr(objects, "WHOLE", 1 << 20)
    data = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(data)

    def paused(work: Callable[[], Any]) -> Any:
        process.send_signal(signal.SIGSTOP)
        threading.Timer(3, lambda: process.send_signal(signal.SIGCONT)).start()
        return work()

    there = Objects.at(url)
    paused(lambda: there.upload("big", tmp_path / "big"))
    assert paused(lambda: there.create("word", b"{}"))
    paused(lambda: there.download("big", tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data


def test_what_is_wrong_with_an_address_is_one_clear_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"s3://no-such-bucket/x: cannot head the bucket .there is no such bucket"):
        Store.at("s3://no-such-bucket/x")
    with pytest.raises(UserError, match="gs://bucket: cannot be used as a store; expected a folder, file://FOLDER or s3://"):
        Store.at("gs://bucket")
    assert Store.at(Path(url)).where == url, "a path object has made one of two slashes"
    monkeypatch.setattr(objects, "FIRST_PATIENCE", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    objects._client.cache_clear()
    with pytest.raises(UserError, match=r"no answer for 0.5 s .*AWS_ENDPOINT_URL"):
        Store.at(url)
    objects._client.cache_clear()


def test_a_file_that_is_gone_is_no_store_that_cannot_be_asked(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What waits for MLflow is dropped in the one case, and sent later in the other."""
    publish(url, "value")
    address = Store.at(url).file_address(published(url).files["values/value.txt"])
    on_another_host(monkeypatch, tmp_path)
    store = Store.at(url)
    with monkeypatch.context() as without:
        without.delenv("AWS_ACCESS_KEY_ID")
        without.delenv("AWS_SECRET_ACCESS_KEY")
        without.setenv("AWS_EC2_METADATA_DISABLED", "true")
        objects._client.cache_clear()
        with pytest.raises(UserError, match="no credentials"):
            store.local(address)
    objects._client.cache_clear()
    Objects.at(url).remove([address.removeprefix(f"{url}/")])
    with pytest.raises(LookupError, match="is missing from the store"):
        store.local(address)


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert Store.at(f"file://{tmp_path}/a%20store").root == (tmp_path / "a store").resolve()


@pytest.mark.parametrize("wrong", ["../../x", "/tmp/x", "stage/../../../x"])
def test_a_record_that_names_a_file_elsewhere_is_refused(url: str, wrong: str) -> None:
    """A file of that name would be written outside of the cache."""
    assert publish(url, "value")
    store = Store.at(url)
    record = store.record("stage", "print")
    assert record is not None
    record["files"]["values/value.txt"]["path"] = wrong
    planted = {**record, "fingerprint": "planted"}
    assert Objects.at(url).create("stage/planted/record.json", json.dumps(planted).encode())
    with pytest.raises(UserError, match=r"stage/planted/record\.json: names the file"):
        store.artifact("stage", "planted")
