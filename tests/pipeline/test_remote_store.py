"""What belongs to S3 alone, and what a plan of many jobs reads of any store; test_store_contract.py
has what all stores promise.
"""

import json
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.plan import STALE, folder_counts, serve
from benchmarks.plan_store import finish, write_workflow
from pipeline.planning.planner import State
from pipeline.store import cache
from pipeline.store import s3 as objects
from pipeline.store.base import Store
from pipeline.store.record import DamagedArtifact
from pipeline.store.s3 import S3Objects
from pipeline.store.snapshot import MANY, RECORDS, StoreSnapshot
from tests.conftest import refuses
from tests.pipeline.conftest import S3, VALUE, Move, Patch, publish, published, read, use_s3
from tests.pipeline.inline import plan_of
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


# What a plan of many jobs reads, of a folder and of a bucket with pages of a thousand keys

JOBS, NAMES = 130, ("", "0", "9", "9/a", "a", "f", "ffff", "z", "%41", "&lt; é+ ", "\U0001f40d")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: Patch) -> Iterator[str]:
    """A server's address; its bucket has the finished store of `JOBS`, and 3,300 odd names."""
    folder = tmp_path / "bucket"
    file = write_workflow(tmp_path / "w.yaml", JOBS)
    finish(plan_of(file, folder / "store"), folder / "store")
    for name in NAMES:
        for number in range(300):
            path = folder / "odd" / "kind" / f"{name}{number:03}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * (number % 3))
    with serve(folder) as address:
        use_s3(monkeypatch, address, tmp_path / "cache")
        yield address
    objects._client.cache_clear()


def counts(address: str) -> dict[str, int]:
    """The server's requests of each kind since the last call."""
    with urllib.request.urlopen(f"{address}/_counts") as answer:
        return dict(json.load(answer))


def test_a_long_listing_has_each_key_once(bucket: str, tmp_path: Path) -> None:
    there = Store.at(tmp_path / "bucket" / "odd").objects.entries("kind/")
    found = Store.at("s3://any/odd").objects.entries("kind/")
    assert len(found) == 300 * len(NAMES)
    assert sorted((e.key, e.size) for e in found) == sorted((e.key, e.size) for e in there)
    assert len({entry.mark for entry in found}) == 3
    assert counts(bucket)["list"] <= 4 + len(objects.CUTS)
    assert Store.at("s3://any/odd").objects.folders() == ["kind"]


def test_a_host_reads_copies_of_records(bucket: str, tmp_path: Path, another_host: Move) -> None:
    assert JOBS > 2 * MANY

    def look() -> int:
        """The objects a host reads; what it finds is what there is."""
        counts(bucket)
        seen = {record.fingerprint: record for record in StoreSnapshot(store).records("finetune")}
        asked = counts(bucket).get("get", 0)
        assert len(seen) == len(folder)
        assert all(seen[name].to_bytes() == data for name, data in folder.items())
        return asked

    paths = (tmp_path / "bucket" / "store" / "finetune").glob("*/record.json")
    folder = {path.parent.name: path.read_bytes() for path in paths}
    store = Store.at("s3://any/store")
    complete = len(folder) + 1
    assert [look(), look()] == [complete, 0]
    another_host()
    assert [look(), look()] == [1, 0]
    store.withdraw("finetune", min(folder), "a test")
    del folder[min(folder)]
    assert look() == 1
    another_host()
    assert look() == 2
    whole = store.objects.read(f"{RECORDS}/finetune") or b""
    for damaged in (b"", b"\n", whole[:-9], os.urandom(99), b"[[1]]\n", b'[["a", 1, []]]\n'):
        another_host()
        store.objects.write(f"{RECORDS}/finetune", damaged)
        assert look() == complete
    own = store.root / RECORDS / "finetune"
    data = bytearray(own.read_bytes())
    data[-300] ^= 1
    own.write_bytes(data)
    assert look() == 1


def test_each_record_is_read_once_when_all_jobs_are_stale(bucket: str, tmp_path: Path) -> None:
    workflow, folder = tmp_path / "w.yaml", tmp_path / "bucket" / "store"
    there = len(list(folder.glob("*/*/record.json")))
    assert folder_counts(workflow, folder, STALE[1:])["get"] <= there + 1
    plan_of(workflow, "s3://any/store")
    counts(bucket)
    plan = plan_of(workflow, "s3://any/store", *STALE[1:])
    asked, entries = counts(bucket), plan.entries.values()
    assert sum(entry.state is State.STALE for entry in entries) >= JOBS
    assert asked.get("get", 0) <= 1
    assert asked["list"] <= len({entry.cell.uses for entry in entries}) + len(objects.CUTS)
