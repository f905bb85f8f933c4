"""What belongs to S3 alone; test_store_contract.py has what all stores promise."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from pipeline import cache, objects
from pipeline.objects import Objects
from pipeline.parts import Outputs
from pipeline.plan import Plan, State
from pipeline.store import Store
from tests.conftest import ROOT
from tests.pipeline.conftest import S3, VALUE, Move, Patch, publish, published
from tests.pipeline.inline import plan_of, run_inline
from tests.servers.process import free_port

TOY = ROOT / "tests" / "pipeline" / "toy" / "workflow.yaml"


# The store's files


def test_a_lost_answer_does_not_lose_the_race(s3_store: str) -> None:
    """The write was done, its answer lost: the second request is refused, and still it was ours."""
    there = Objects.at(s3_store)
    asked = [there.create("word", data) for data in (b"mine", b"mine", b"yours")]
    assert asked == [True, True, False]


def test_records_come_alone_and_damaged_copies_are_not_read(
    s3_store: str, another_host: Move
) -> None:
    publish(Store.at(s3_store))
    another_host()
    store = Store.at(s3_store)
    found = published(store.seen(["stage"]))
    [copy] = store.root.glob("cache/records/stage/*.json")
    copy.write_bytes(b"{")
    assert published(store.seen(["stage"])) == published(store) == found
    assert not list(store.root.glob("stage/**/*.txt"))
    assert found.path(VALUE).read_text() == "value"

    another_host()
    key = store.file_address(found.files[VALUE]).removeprefix(f"{s3_store}/")
    Objects.at(s3_store).write(key, b"eulav")
    with pytest.raises(UserError, match=rf"{VALUE}: has the sha256 .* its record says "):
        published(Store.at(s3_store)).path(VALUE)
    assert not list(Path(os.environ["GPT1_CACHE"]).rglob("value.txt"))


def test_the_cache_is_bounded_and_forgets_the_oldest(s3_store: str, monkeypatch: Patch) -> None:
    store = Store.at(s3_store)
    for number in range(4):
        attempt = store.new_attempt("stage", f"print-{number}")
        outputs = Outputs(attempt)
        with outputs.open("big.bin") as file:
            file.write(bytes(1000))
        store.publish("stage", f"print-{number}", outputs.close(), {"attempt": attempt.name})
    for number, path in enumerate(sorted(store.root.glob("stage/*/*/big.bin"))):
        os.utime(path, (number, number))
    under_way = store.new_attempt("stage", "under-way")
    (under_way / "draft.bin").write_bytes(bytes(1000))
    os.utime(under_way / "draft.bin", (0, 0))
    used_now = published(store, "print-0").path("big.bin")
    assert used_now.stat().st_mtime > 4, "reading counts as use"
    size = sum(path.stat().st_size for path in store.root.glob("stage/**/*") if path.is_file())
    assert cache.evict(store.root.parent, size - 1500, grace=60) == 2000
    left = sorted(path.parent.parent.name for path in store.root.glob("stage/*/*/big.bin"))
    assert left == ["print-0", "print-3"]
    assert (under_way / "draft.bin").exists()
    assert cache.evict(store.root.parent, 0, grace=float("inf")) == 0, "what was just used stays"
    assert published(store, "print-1").path("big.bin").read_bytes() == bytes(1000), "fetched again"
    monkeypatch.setenv("GPT1_CACHE_GB", "much")
    with pytest.raises(UserError, match="GPT1_CACHE_GB=much: expected a number"):
        cache.bound()


# Servers that pause, and wrong addresses


def test_a_server_paused_while_files_go_up_and_down(
    s3: S3, s3_store: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(objects, "WHOLE", 1 << 20)
    data = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(data)

    def paused(work: Callable[[], Any]) -> Any:
        s3[1].send_signal(signal.SIGSTOP)
        threading.Timer(1, lambda: s3[1].send_signal(signal.SIGCONT)).start()
        return work()

    there = Objects.at(s3_store)
    paused(lambda: there.upload("big", tmp_path / "big"))
    assert paused(lambda: there.create("word", b"{}"))
    paused(lambda: there.download("big", tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data


def test_a_wrong_address_is_one_clear_line(s3_store: str, monkeypatch: Patch) -> None:
    for wrong, message in (
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x: .*there is no such bucket"),
        ("s3://a bucket/x", "s3://bucket"),
        ("gs://bucket", "gs://bucket: .*expected a folder, file://FOLDER or s3://"),
    ):
        with pytest.raises(UserError, match=message):
            Store.at(wrong)
    assert Store.at(Path(s3_store)).where == s3_store, "a path object has made one of two slashes"
    monkeypatch.setattr(objects, "FIRST_PATIENCE", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    objects._client.cache_clear()
    with pytest.raises(UserError, match=r"no answer for 0.5 s .*AWS_ENDPOINT_URL"):
        Store.at(s3_store)


def test_a_store_away_is_no_file_gone(
    s3_store: str, monkeypatch: Patch, another_host: Move
) -> None:
    """What waits for MLflow is sent later in this case, and dropped in that (LookupError)."""
    publish(Store.at(s3_store))
    address = Store.at(s3_store).file_address(published(Store.at(s3_store)).files[VALUE])
    another_host()
    store = Store.at(s3_store)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    objects._client.cache_clear()
    with pytest.raises(UserError, match="no credentials"):
        store.local(address)


# Workflows on such a store


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
    entries = made.entries.items()
    return {cell: entry.artifact.digest if entry.artifact else None for cell, entry in entries}


def test_the_same_digests_as_in_a_folder_and_nothing_twice(
    numbers: Path, tmp_path: Path, s3_store: str, another_host: Move
) -> None:
    run_inline(plan(numbers, tmp_path / "store"))
    assert run_inline(plan(numbers, s3_store)) == ["numbers", "total[factor=1]", "total[factor=2]"]
    another_host()
    again = plan(numbers, s3_store)
    assert again.to_run == []
    assert digests(again) == digests(plan(numbers, tmp_path / "store"))
    assert plan(numbers, s3_store, "total.factor=3").entries["total"].state is State.NEVER
    (numbers / "4.txt").write_text("4")
    another_host()
    changed = plan(numbers, s3_store)
    run_inline(changed)
    entry = changed.entries["numbers"]
    record = changed.store.record(entry.cell.uses, entry.fingerprint) or {}
    assert record["parts"] == {"made": 1, "reused": 3}, "one more file costs one more part"


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


@pytest.mark.slow
def test_a_plan_of_many_artifacts_takes_few_requests(
    numbers: Path, tmp_path: Path, s3_store: str
) -> None:
    """First on a host: one for a thousand objects listed, one a record. Then the lists alone."""
    many = f"total.matrix.factor={[*range(1, 401)]}".replace(" ", "")
    local = plan(numbers, tmp_path / "store", many)
    run_inline(local)
    there, root = Objects.at(s3_store), local.store.root
    files = [path for path in root.glob("tests.*/**/*") if path.is_file()]
    for path in files:
        there.upload(path.relative_to(root).as_posix(), path)
    assert len(files) > 1000
    pages = 3 + len(files) // 1000  # three kinds: numbers, its parts, total
    with counted() as first:
        assert plan(numbers, s3_store, many).to_run == []
    assert first["ListObjectsV2"] <= pages
    assert first["GetObject"] <= 401
    assert sum(first.values()) <= 1 + pages + 401, first
    with counted() as second:
        assert plan(numbers, s3_store, many).to_run == []
    assert sum(second.values()) <= 1 + pages, second
