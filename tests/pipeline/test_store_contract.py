"""What every store promises, asked of one in a folder and of one on S3 (a real server: moto's)."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from pipeline.lease import HeldError, Leases
from pipeline.objects import Objects
from pipeline.parts import Outputs
from pipeline.store import Failure, Store
from tests.pipeline.conftest import VALUE, WHEN, on_another_host, publish, published

RECORD = "stage/print/record.json"
FORK = multiprocessing.get_context("fork")
WRITERS = 6


@dataclass(frozen=True)
class Folder:
    """The files of a store in a folder, with the methods of `Objects`."""

    root: Path

    def write(self, key: str, data: bytes) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(data)

    def remove(self, keys: list[str]) -> None:
        for key in keys:
            (self.root / key).unlink()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store."""
    return Store.at(request.getfixturevalue("s3_store") if request.param == "s3" else tmp_path / "store")


@pytest.fixture
def files(store: Store) -> Folder | Objects:
    """What holds the store's files: for writing into it what no store would write."""
    return Objects.at(store.where) if store.where.startswith("s3://") else Folder(Path(store.where))


def key_of(store: Store, name: str = VALUE) -> str:
    record = store.record("stage", "print")
    assert record is not None
    return str(record["files"][name]["path"])


def race(work: Callable[[Store, int, Any], Any], store: Store) -> list[Any]:
    """What `work` gives in each of several processes, which all live until the last one is done."""
    gate, results = FORK.Barrier(WRITERS), FORK.Queue()

    def run(number: int) -> None:
        results.put(work(store, number, gate))
        gate.wait()

    racers = [FORK.Process(target=run, args=(number,)) for number in range(WRITERS)]
    for racer in racers:
        racer.start()
    ended = [results.get(timeout=120) for _ in racers]
    for racer in racers:
        racer.join()
    return ended


def test_a_store_is_found_again_and_travels(store: Store) -> None:
    assert Store.at(store.where) == Store.existing(store.where) == pickle.loads(pickle.dumps(store)) == store


# Publishing


def test_of_many_writers_exactly_one_publishes(store: Store) -> None:
    ended = race(lambda store, number, gate: (publish(store, f"{number}", gate=gate), f"{number}"), store)
    [winner] = [value for won, value in ended if won]
    assert published(store).path(VALUE).read_text() == published(store).summary["value"] == winner
    assert published(store).path(WHEN).read_text() == key_of(store).split("/")[2]


def test_a_late_writer_changes_nothing(store: Store) -> None:
    assert publish(store, "first")
    before = store.record("stage", "print")
    assert not publish(store, "second")
    assert store.record("stage", "print") == before
    assert published(store).path(VALUE).read_text() == "first"


def test_nothing_is_published_before_its_record(store: Store) -> None:
    store.new_attempt("stage", "print")
    for expected in (False, True):
        assert (store.artifact("stage", "print") is not None) is expected
        assert (store.record("stage", "print") is not None) is expected
        assert store.published("stage", "print") is expected
        assert publish(store) is not expected


NAMES = ("a b", "a%20b", "q?x=1", "h#f", "pl+us", "quote'\"s", "\u00e9", "e\u0301", "back\\slash", "d/e/f")


def test_any_host_reads_what_was_written(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {name: os.urandom(10_000) for name in NAMES}
    outputs = Outputs(store.new_attempt("stage", "print"))
    for name, data in written.items():
        with outputs.open(name) as file:
            for start in range(0, len(data), 777):
                file.write(data[start : start + 777])
    assert store.publish("stage", "print", outputs.close(), {})
    on_another_host(monkeypatch, tmp_path)
    found = pickle.loads(pickle.dumps(published(Store.at(store.where))))
    assert sorted(found.files) == sorted(NAMES)
    folder = found.path("a b").parent
    for name, data in written.items():
        file = found.files[name]
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert "/" in name or (folder / name).read_bytes() == data, "a file comes with the others of its folder"
        assert found.path(name).read_bytes() == store.local(store.file_address(file)).read_bytes() == data
        assert store.local(key_of(store, name)).read_bytes() == data


def test_volatile_files_do_not_enter_the_digest(store: Store) -> None:
    for fingerprint, value in (("one", "same"), ("two", "same"), ("three", "other")):
        assert publish(store, value, fingerprint)
    one, two, three = (published(store, fingerprint) for fingerprint in ("one", "two", "three"))
    assert one.files[WHEN].sha256 != two.files[WHEN].sha256
    assert one.digest == two.digest != three.digest
    line = f"{VALUE}\0{hashlib.sha256(b'same').hexdigest()}\n"
    assert one.digest == hashlib.sha256(line.encode()).hexdigest(), "the same in every store"


def test_the_files_of_a_part_are_read_where_they_are(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert publish(store, "part", "key", stage="stage.parts")
    part = published(store, "key", "stage.parts")
    outputs = Outputs(store.new_attempt("stage", "print"))
    outputs.declare("own.txt", volatile=False).write_text("own")
    outputs.add(part.files[VALUE])
    assert store.publish("stage", "print", outputs.close(), {})
    on_another_host(monkeypatch, tmp_path)
    found = published(store)
    assert {name: (file.path.read_text(), store.owns(found, file)) for name, file in found.files.items()} == {
        "own.txt": ("own", True), VALUE: ("part", False),
    }  # fmt: skip
    assert key_of(store).startswith("stage.parts/key/")


# Damage, and records that were taken back


@pytest.mark.parametrize("harm", ["another size", "missing"])
def test_damage_is_noticed_and_what_is_withdrawn_makes_room(harm: str, store: Store, files: Folder | Objects) -> None:
    assert publish(store)
    assert store.damage(published(store)) is None
    if harm == "missing":
        files.remove([key_of(store)])
    else:
        files.write(key_of(store), b"value!")
    for view in (store, store.seen(["stage"])):
        said = (view.damage(published(view)) or "").split()
        assert VALUE in said
        assert harm == "missing" or {"6", "5"} <= set(said)
    store.withdraw("stage", "print")
    assert (store.artifact("stage", "print"), store.withdrawn("stage", "print")) == (None, 1)
    assert publish(store, "value again")
    assert published(store).path(VALUE).read_text() == "value again"
    assert store.damage(published(store)) is None
    store.withdraw("stage", "print")
    store.withdraw("stage", "print")
    assert store.withdrawn("stage", "print") == 2
    assert {record["summary"]["value"] for record in store.history()} == {"value", "value again"}
    assert list(store.records("stage")) == []


UNREADABLE = (
    b"", b"{", b"[]", b"null", b'"text"', b"\xff", b"[" * 100_000, b'{"record_version": 99}', b'{"record_version": 1}',
    b'{"record_version": 1, "stage": "stage", "fingerprint": "print", "digest": "", "files": []}',
    b'{"record_version": 1, "stage": "stage", "fingerprint": "print", "digest": "", "files": {"a": {"path": "stage/a"}}}',
)  # fmt: skip


def test_a_record_that_cannot_be_read_counts_as_absent(store: Store, files: Folder | Objects) -> None:
    assert publish(store, fingerprint="good")
    cut = json.dumps(store.record("stage", "good")).encode()[:100]
    planted = {f"{number}": data for number, data in enumerate([*UNREADABLE, cut])}
    for fingerprint, data in planted.items():
        files.write(f"stage/{fingerprint}/record.json", data)
    for view in (store, store.seen(["stage"])):
        for fingerprint, data in planted.items():
            assert (view.artifact("stage", fingerprint), view.record("stage", fingerprint)) == (None, None), data
            assert (view.published("stage", fingerprint), view.unreadable("stage", fingerprint)) == (True, True), data
        assert not view.unreadable("stage", "good")
        assert not view.unreadable("stage", "none")
        for records in (view.records("stage"), view.history()):
            assert [record["fingerprint"] for record in records] == ["good"]
    assert not publish(store, "late", "0")
    store.withdraw("stage", "0")
    assert publish(store, "again", "0")
    assert published(store, "0").path(VALUE).read_text() == "again"


def test_a_record_that_names_a_file_elsewhere_is_refused(store: Store, files: Folder | Objects) -> None:
    """A file of that name would be read, or written, outside of the store or of this host's cache."""
    assert publish(store)
    record: Any = store.record("stage", "print")
    entry = record["files"][VALUE]
    planted = []
    for wrong in ("/etc/passwd", "../../x", "stage/../../x", "stage/\0", ""):
        planted += [{"files": {VALUE: {**entry, "path": wrong}}}, {"files": {wrong: entry}}, {"stage": wrong}]
    for wrong in ("other/print/a/value.txt", 7):
        planted += [{"files": {VALUE: {**entry, "path": wrong}}}, {"stage": wrong}]
    for change in planted:
        files.write(RECORD, json.dumps({**record, **change}).encode())
        for view in (store, store.seen(["stage"])):
            with pytest.raises(UserError, match=r"/print/record\.json"):
                view.artifact("stage", "print")


# Attempts, and what is left in them


def test_attempts_are_listed_oldest_first_within_a_second_too(store: Store) -> None:
    made = [store.new_attempt("stage", "print") for _ in range(20)]
    assert store.attempts("stage", "print") == made
    assert store.attempts("stage", "another") == []


def test_why_an_attempt_failed_is_known_to_any_host(
    store: Store, files: Folder | Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [store.new_attempt("stage", "print") for _ in range(4)]
    store.fail(made[0], "out of paper", user=True)
    store.fail(made[1], "asked to end", user=True, stopped=True)
    for attempt, data in zip(made[2:], (b"{", b"{}"), strict=True):
        files.write(f"stage/print/{attempt.name}/failure.json", data)
    on_another_host(monkeypatch, tmp_path)
    here = Store.at(store.where)
    attempts = here.attempts("stage", "print")
    assert [attempt.name for attempt in attempts] == [attempt.name for attempt in made]
    expected = [Failure("out of paper", stopped=False), Failure("asked to end", stopped=True), None, None]
    assert [here.failure(attempt) for attempt in attempts] == expected
    here.leave(here.root, "note.json", {"a": [1]})
    assert (store.left(store.root, "note.json"), store.left(store.root, "other.json")) == ({"a": [1]}, None)


def test_a_file_that_is_gone_is_a_lookup_error(store: Store, files: Folder | Objects) -> None:
    assert publish(store)
    address = store.file_address(published(store).files[VALUE])
    files.remove([key_of(store)])
    with pytest.raises(LookupError):
        store.local(store.address(store.new_attempt("stage", "print") / "never.txt"))
    (store.root / key_of(store)).unlink(missing_ok=True)  # this host's copy
    with pytest.raises(LookupError):
        store.local(address)


def test_the_file_shown_is_the_last_one(store: Store, files: Folder | Objects) -> None:
    files.write("report.html.old", b"old")
    assert store.shown("report.html") is None
    for value in ("one", "two"):
        assert publish(store, value, value)
        store.show(published(store, value).files[VALUE], "report.html")
    assert str(store.shown("report.html")).endswith("report.html")


# Reading much at once


def test_a_snapshot_answers_as_the_store_does(store: Store) -> None:
    for fingerprint in ("a", "b", "c"):
        assert publish(store, f"value {fingerprint}", fingerprint)
    assert publish(store, "part", "key", stage="stage.parts")
    assert publish(store, "other", "d", stage="other")
    store.withdraw("stage", "b")
    store.fail(store.new_attempt("stage", "b"), "why", user=True)
    seen = store.seen(["stage", "stage.parts"])
    seen.read_ahead("stage.parts", ["key", "none"])
    places = [("stage", "a"), ("stage", "b"), ("stage", "none"), ("stage.parts", "key"), ("none", "a")]
    for place in places:
        for ask in ("record", "artifact", "published", "attempts", "withdrawn"):
            assert getattr(seen, ask)(*place) == getattr(store, ask)(*place), (ask, place)
    for kind in ("stage", "none"):
        assert list(seen.records(kind)) == list(store.records(kind))
    assert [record["fingerprint"] for record in seen.records("stage")] == ["a", "c"]
    for view in (store, seen):
        assert sorted(record["fingerprint"] for record in view.history()) == ["a", "b", "c", "d"], "no part"


# Leases

ELSEWHERE = {"run": "elsewhere", "host": "another", "pid": 1, "token": "theirs"}


def holder(store: Store, stage: str = "stage") -> object:
    return (store.lease(stage, "1").read() or {}).get("run")


def expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a holder on another machine counts as gone."""
    monkeypatch.setattr("pipeline.lease.EXPIRY", 0.0)


def test_a_lease_keeps_others_out_and_names_the_holder(store: Store) -> None:
    first, second = Leases("run-1"), Leases("run-2")
    first.take([store.lease("a", "1"), store.lease("b", "1")])
    with pytest.raises(HeldError, match=rf"^b .*run-1 .*{os.getpid()}"):
        second.take([store.lease("c", "1"), store.lease("b", "1")])
    assert [holder(store, stage) for stage in ("a", "b", "c")] == ["run-1", "run-1", None], "all of them or none"
    first.release()
    second.take([store.lease("b", "1")])
    assert [holder(store, stage) for stage in ("a", "b")] == [None, "run-2"]
    second.release()


def test_a_dead_holder_of_this_machine_is_no_holder(store: Store) -> None:
    def take_and_die() -> None:
        Leases("dead").take([store.lease("stage", "1")])
        os._exit(9)

    process = FORK.Process(target=take_and_die)
    process.start()
    process.join()
    assert holder(store) == "dead"
    taken = Leases("next")
    taken.take([store.lease("stage", "1")])
    assert holder(store) == "next"
    taken.release()


def test_the_heart_of_a_holder_elsewhere_decides(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = store.lease("stage", "1")
    assert lease.create({**ELSEWHERE, "beat": time.time()})
    taken = Leases("next")
    with pytest.raises(HeldError):
        taken.take([store.lease("stage", "1")])
    expire(monkeypatch)
    taken = Leases("next")
    taken.take([store.lease("stage", "1")])
    assert holder(store) == "next"
    taken.release()


def test_one_refresh_a_pulse_keeps_all_leases_of_a_holder_alive(store: Store) -> None:
    leases = [store.lease(stage, "1") for stage in ("a", "b")]
    for lease in leases:
        assert lease.create({**ELSEWHERE, "beat": time.time()})
    time.sleep(2.1)  # a server's clock has whole seconds

    def beats() -> list[float]:
        return [(lease.read() or {})["beat"] for lease in leases]

    before = beats()
    for lease in {lease.pulse: lease for lease in leases}.values():
        lease.refresh({**ELSEWHERE, "beat": time.time()})
    assert all(after > earlier for after, earlier in zip(beats(), before, strict=True))


def test_two_who_find_a_dead_lease_take_it_once(store: Store) -> None:
    one, two = store.lease("stage", "1"), store.lease("stage", "1")
    assert one.create(ELSEWHERE)
    assert one.read()
    assert two.read()
    assert one.seize({"run": "one", "token": "1"})
    assert not two.seize({"run": "two", "token": "2"})
    assert holder(store) == "one"
    assert two.read()
    one.remove()
    assert not two.seize({"run": "two", "token": "2"}), "what was given back is created, not taken over"
    assert two.create({"run": "two", "token": "2"})


def test_of_many_who_find_a_dead_lease_one_takes_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.lease("stage", "1").create({**ELSEWHERE, "beat": time.time()})
    expire(monkeypatch)

    def take(store: Store, number: int, gate: Any) -> str | None:
        leases = Leases(f"run-{number}")
        gate.wait()
        try:
            leases.take([store.lease("stage", "1")])
        except HeldError:
            return None
        return f"run-{number}"

    assert [run for run in race(take, store) if run] == [holder(store)]


def test_a_lease_that_was_taken_over_is_not_disturbed_by_its_old_holder(store: Store) -> None:
    old, lease = Leases("old"), store.lease("stage", "1")
    old.take([lease])
    mine: Any = lease.read()
    taker = store.lease("stage", "1")
    assert taker.read()
    assert taker.seize({**ELSEWHERE, "beat": time.time()})
    lease.refresh({**mine, "beat": time.time()})
    assert holder(store) == "elsewhere"
    old.release()
    assert holder(store) == "elsewhere"


def test_a_lease_that_cannot_be_read_expires_as_others_do(
    store: Store, files: Folder | Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [f"stage-{number}" for number in range(5)]
    for stage, data in zip(stages, (b"", b"{", b"[]", b"null", b"{}"), strict=True):
        files.write(f"{stage}/1/lease.json", data)
        with pytest.raises(HeldError):
            Leases("early").take([store.lease(stage, "1")])
    expire(monkeypatch)
    taken = Leases("next")
    taken.take([store.lease(stage, "1") for stage in stages])
    assert {holder(store, stage) for stage in stages} == {"next"}
    taken.release()
