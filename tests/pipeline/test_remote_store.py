"""What belongs to S3 alone; test_store_contract.py has what all stores promise."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.planning.planner import Plan, State
from pipeline.store import cache
from pipeline.store import s3 as objects
from pipeline.store.base import Store
from pipeline.store.record import DamagedArtifact
from pipeline.store.s3 import S3Objects
from tests.conftest import refuses
from tests.pipeline.conftest import S3, VALUE, Move, Patch, publish, published, read
from tests.pipeline.inline import TOY, plan_of, run_inline
from tests.servers.process import free_port

# What a host keeps


def test_a_lost_answer_does_not_lose_the_race(s3_store: str) -> None:
    """The write was done, its answer lost: the second request is refused, and still it was ours."""
    there = S3Objects.at(s3_store)
    asked = [there.create("word", data) for data in (b"mine", b"mine", b"yours")]
    assert asked == [True, True, False]


def test_a_damaged_copy_is_fetched_again(s3_store: str, another_host: Move) -> None:
    store = Store.at(s3_store)
    publish(store)
    file = published(store).file(VALUE)
    for run, harm in enumerate((b"walue", b"val")):
        path = store.for_run(f"{run}").fetch(file)
        before = path.stat().st_mtime_ns
        path.write_bytes(harm)
        os.utime(path, ns=(before, before))
        assert store.for_run(f"{run + 1}").fetch(file).read_bytes() == b"value"
    another_host()
    store.objects.write(file.key, b"walue")
    with pytest.raises(DamagedArtifact):
        store.fetch(file)
    assert not list(Path(os.environ["GPT1_CACHE"]).rglob("value.txt"))


def test_the_cache_is_bounded_and_forgets_the_oldest(s3_store: str, monkeypatch: Patch) -> None:
    store, big = Store.at(s3_store), "x" * 1000
    for number in range(4):
        assert publish(store, big, f"print-{number}")
    for number, path in enumerate(sorted(store.root.glob(f"stage/*/*/{VALUE}"))):
        os.utime(path, (number, number))
    draft = store.new_attempt("stage", "under-way") / "draft.bin"
    draft.write_text(big)
    os.utime(draft, (0, 0))
    assert read(store, published(store, "print-0"), VALUE) == big, "reading counts as use"
    size = sum(path.stat().st_size for path in store.root.glob("stage/**/*") if path.is_file())
    assert cache.evict(store.root.parent, size - 1500, grace=60) == 2000
    left = sorted(path.parts[-4] for path in store.root.glob(f"stage/*/*/{VALUE}"))
    assert left == ["print-0", "print-3"]
    assert draft.exists()
    assert cache.evict(store.root.parent, 0, grace=float("inf")) == 0, "what was just used stays"
    assert read(store, published(store, "print-1"), VALUE) == big, "fetched again"
    monkeypatch.setenv("GPT1_CACHE_GB", "much")
    refuses("GPT1_CACHE_GB=much: expected a number", cache.bound)


# Servers that pause, and wrong addresses


def test_a_paused_server(s3: S3, s3_store: str, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(objects, "WHOLE", 1 << 20)
    data = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(data)

    there = S3Objects.at(s3_store)
    for work in (
        lambda: there.upload("big", tmp_path / "big"), lambda: there.create("word", b"{}"),
        lambda: there.download("big", tmp_path / "back"),
    ):  # fmt: skip
        s3[1].send_signal(signal.SIGSTOP)
        threading.Timer(1, s3[1].send_signal, [signal.SIGCONT]).start()
        work()
    assert (tmp_path / "back").read_bytes() == data


def test_a_wrong_address_is_one_clear_line(s3_store: str, monkeypatch: Patch) -> None:
    for wrong, message in {
        "s3://no-such-bucket/x": "s3://no-such-bucket/x: .*no such bucket",
        "s3://a bucket/x": "s3://bucket",
        "gs://bucket": "gs://bucket: .*expected a folder, file://FOLDER or s3://",
    }.items():
        refuses(message, Store.at, wrong)
    assert Store.at(Path(s3_store)).where == s3_store, "a path object has made one of two slashes"
    monkeypatch.setattr(objects, "FIRST_PATIENCE", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    objects._client.cache_clear()
    refuses(r"no answer for 0.5s .*AWS_ENDPOINT_URL", Store.at, s3_store)


def test_a_store_away_loses_no_file(s3_store: str, monkeypatch: Patch, another_host: Move) -> None:
    """What waits for MLflow is sent later in this case, and dropped in that (LookupError)."""
    publish(Store.at(s3_store))
    another_host()
    store = Store.at(s3_store)
    file = published(store).file(VALUE)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    objects._client.cache_clear()
    refuses("no credentials", store.fetch, file)


def test_nothing_is_made_twice(numbers: Path, s3_store: str, another_host: Move) -> None:
    def plan(*assignments: str) -> Plan:
        return plan_of(TOY, s3_store, f"numbers.source={numbers}", *assignments)

    assert run_inline(plan()) == ["numbers", "total[factor=1]", "total[factor=2]"]
    another_host()
    assert plan().to_run == []
    assert plan("total.factor=3").entries["total"].state is State.NEW
    (numbers / "4.txt").write_text("4")
    changed = plan()
    run_inline(changed)
    record: Any = changed.store.record(*changed.entries["numbers"].job.split("/"))
    assert record.parts == {"made": 1, "reused": 3}, "one more file costs one more part"
