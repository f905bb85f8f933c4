"""What a plan of many jobs reads, of a folder and of a bucket with pages of a thousand keys."""

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.plan import STALE, folder_counts, serve
from benchmarks.plan_store import finish, write_workflow
from pipeline.planning.planner import State, make_plan
from pipeline.store import s3
from pipeline.store.base import Store
from pipeline.store.snapshot import MANY, RECORDS, StoreSnapshot
from pipeline.workflow.load import read
from tests.pipeline.conftest import Move, Patch

JOBS, NAMES = 200, ("", "0", "9", "9/a", "a", "f", "ffff", "z", "%41", "&lt; é+ ", "\U0001f40d")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: Patch) -> Iterator[str]:
    """A server's address; its bucket has the finished store of `JOBS`, and 3,300 odd names."""
    folder = tmp_path / "bucket"
    plan = make_plan(read(write_workflow(tmp_path / "w.yaml", JOBS)), Store.at(folder / "store"))
    finish(plan, folder / "store")
    for name in NAMES:
        for number in range(300):
            path = folder / "odd" / "kind" / f"{name}{number:03}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * (number % 3))
    with serve(folder) as address:
        variables = {"AWS_ENDPOINT_URL": address, "GPT1_CACHE": str(tmp_path / "cache")}
        secret = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "a"}
        for key, value in {**variables, **secret, "AWS_DEFAULT_REGION": "any"}.items():
            monkeypatch.setenv(key, value)
        s3._client.cache_clear()
        yield address
    s3._client.cache_clear()


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
    assert counts(bucket)["list"] <= 4 + len(s3.CUTS)
    assert Store.at("s3://any/odd").objects.folders() == ["kind"]


def test_a_host_reads_copies_of_records(bucket: str, tmp_path: Path, another_host: Move) -> None:
    assert JOBS > 2 * MANY

    def look() -> int:
        """The objects a host reads; what it finds is what there is."""
        counts(bucket)
        seen = {record.fingerprint: record for record in StoreSnapshot(store).records("finetune")}
        read = counts(bucket).get("get", 0)
        assert len(seen) == len(folder)
        assert all(seen[name].to_bytes() == data for name, data in folder.items())
        return read

    paths = (tmp_path / "bucket" / "store" / "finetune").glob("*/record.json")
    folder = {path.parent.name: path.read_bytes() for path in paths}
    store = Store.at("s3://any/store")
    assert [look(), look()] == [JOBS + 1, 0]
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
        assert look() == JOBS + 1
    own = store.root / RECORDS / "finetune"
    data = bytearray(own.read_bytes())
    data[-300] ^= 1
    own.write_bytes(data)
    assert look() == 1


def test_each_record_is_read_once_when_all_jobs_are_stale(bucket: str, tmp_path: Path) -> None:
    workflow, folder = tmp_path / "w.yaml", tmp_path / "bucket" / "store"
    there = len(list(folder.glob("*/*/record.json")))
    assert folder_counts(workflow, folder, STALE[1:])["get"] <= there + 1
    make_plan(read(workflow), Store.at("s3://any/store"))
    counts(bucket)
    plan = make_plan(read(workflow, None, STALE[1:]), Store.at("s3://any/store"))
    stale = [entry for entry in plan.entries.values() if entry.state is State.STALE]
    assert len(stale) >= JOBS
    asked = counts(bucket)
    assert asked.get("get", 0) <= 1
    assert asked["list"] <= len({entry.cell.uses for entry in plan.entries.values()}) + len(s3.CUTS)
