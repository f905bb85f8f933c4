"""What belongs to a store on S3 alone; test_store_contract.py has what all stores promise."""

from __future__ import annotations

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
from pipeline.objects import Objects
from pipeline.parts import Outputs
from pipeline.store import Store
from tests.pipeline.conftest import S3, VALUE, on_another_host, publish, published
from tests.servers.process import free_port


@pytest.fixture
def url(s3_store: str) -> str:
    return s3_store


def test_a_lost_answer_does_not_lose_the_race(url: str) -> None:
    """The write was done and its answer never came: the repeated request is refused, and still it was ours."""
    there = Objects.at(url)
    assert there.create("word", b"mine")
    assert there.create("word", b"mine")
    assert not there.create("word", b"yours")


def test_records_are_read_without_files(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(Store.at(url))
    on_another_host(monkeypatch, tmp_path)
    store = Store.at(url)
    found = pickle.loads(pickle.dumps(published(store)))
    assert not list(store.root.glob("stage/**/*.txt"))
    assert found.path(VALUE).read_text() == "value"


def test_a_damaged_copy_of_a_record_is_read_again(url: str) -> None:
    store = Store.at(url)
    publish(store)
    assert published(store.seen(["stage"])) == published(store)
    [copy] = store.root.glob("cache/records/stage/*.json")
    copy.write_bytes(b"{")
    assert published(store.seen(["stage"])) == published(store)


def test_a_damaged_object_is_never_read(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.at(url)
    publish(store)
    found = published(store)
    Objects.at(url).write(store.file_address(found.files[VALUE]).removeprefix(f"{url}/"), b"eulav")
    on_another_host(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"values/value.txt: has the sha256 .* its record says .* make it again"):
        found.path(VALUE)
    assert not list(Path(os.environ["GPT1_CACHE"]).rglob("value.txt"))


def test_paths_travel_to_other_hosts(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(Store.at(url))
    path = published(Store.at(url)).path(VALUE)
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


def test_a_server_paused_while_files_go_up_and_down(s3: S3, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_store_that_cannot_be_asked_is_no_file_that_is_gone(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What waits for MLflow is sent later in the one case, and dropped in the other (LookupError)."""
    publish(Store.at(url))
    address = Store.at(url).file_address(published(Store.at(url)).files[VALUE])
    on_another_host(monkeypatch, tmp_path)
    store = Store.at(url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    objects._client.cache_clear()
    with pytest.raises(UserError, match="no credentials"):
        store.local(address)
