"""What every store promises, asked of one in a folder and of one on S3 (moto's server)."""

import hashlib
import json
import multiprocessing
import os
import pickle
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.parts import Outputs
from pipeline.store.base import Failure, Store
from pipeline.store.lease import HeldError, Leases
from pipeline.store.objects import Objects
from tests.conftest import refuses
from tests.pipeline.conftest import VALUE, WHEN, Move, Patch, publish, published
from tests.servers.process import wait_until

FORK = multiprocessing.get_context("fork")
WRITERS = 6


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store."""
    is_folder = request.param == "folder"
    return Store.at(tmp_path / "store" if is_folder else request.getfixturevalue("s3_store"))


def put(store: Store, key: str, data: bytes | None) -> None:
    """Write into a store what no store would write; None removes the file."""
    if store.where.startswith("s3://"):
        there = Objects.at(store.where)
        _ = there.remove([key]) if data is None else there.write(key, data)
    else:
        (store.root / key).parent.mkdir(parents=True, exist_ok=True)
        _ = (store.root / key).unlink() if data is None else (store.root / key).write_bytes(data)


def key_of(store: Store, name: str = VALUE) -> str:
    return str((store.record("stage", "print") or {})["files"][name]["path"])


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


# Publishing


def test_of_many_writers_exactly_one_publishes(store: Store) -> None:
    def write(store: Store, number: int, gate: Any) -> tuple[bool, str]:
        return publish(store, str(number), gate=gate), str(number)

    [winner] = [value for won, value in race(write, store) if won]
    found = published(store)
    assert found.path(VALUE).read_text() == found.summary["value"] == winner
    assert found.path(WHEN).read_text() == key_of(store).split("/")[2]


def test_nothing_counts_before_its_record_and_a_late_writer_changes_nothing(store: Store) -> None:
    place = ("stage", "print")
    store.new_attempt(*place)
    assert (store.artifact(*place), store.record(*place)) == (None, None)
    assert not store.published(*place)
    assert publish(store, "first")
    before = store.record(*place)
    assert not publish(store, "second")
    assert store.record(*place) == before
    assert published(store).path(VALUE).read_text() == "first"
    assert Store.existing(store.where) == pickle.loads(pickle.dumps(store)) == store


NAMES = ["a b", "a%20b", "q?x=1", "h#f", "pl+us", "q'\"s", "é", "e\u0301", "back\\slash", "d/e/f"]


def test_any_host_reads_what_was_written(store: Store, another_host: Move) -> None:
    written = {name: os.urandom(10_000) for name in NAMES}
    outputs = Outputs(store.new_attempt("stage", "print"))
    for name, data in written.items():
        with outputs.open(name) as file:
            for start in range(0, len(data), 777):
                file.write(data[start : start + 777])
    assert store.publish("stage", "print", outputs.close(), {})
    another_host()
    found = pickle.loads(pickle.dumps(published(Store.at(store.where))))
    assert sorted(found.files) == sorted(NAMES)
    folder = found.path("a b").parent
    for name, data in written.items():
        file = found.files[name]
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert "/" in name or (folder / name).read_bytes() == data, "comes with its folder"
        for place in (store.file_address(file), key_of(store, name)):
            assert found.path(name).read_bytes() == store.local(place).read_bytes() == data


def test_the_digest_is_that_of_what_is_not_volatile(store: Store) -> None:
    for fingerprint, value in (("one", "same"), ("two", "same"), ("three", "other")):
        assert publish(store, value, fingerprint)
    one, two, three = (published(store, fingerprint) for fingerprint in ("one", "two", "three"))
    assert one.files[WHEN].sha256 != two.files[WHEN].sha256
    line = f"{VALUE}\0{hashlib.sha256(b'same').hexdigest()}\n"
    assert one.digest == two.digest == hashlib.sha256(line.encode()).hexdigest() != three.digest


def test_the_files_of_a_part_are_read_where_they_are(store: Store, another_host: Move) -> None:
    assert publish(store, "part", "key", stage="stage.parts")
    outputs = Outputs(store.new_attempt("stage", "print"))
    outputs.declare("own.txt", volatile=False).write_text("own")
    outputs.add(published(store, "key", "stage.parts").files[VALUE])
    assert store.publish("stage", "print", outputs.close(), {})
    another_host()
    found = published(store)
    read = {name: file.path.read_text() for name, file in found.files.items()}
    assert read == {"own.txt": "own", VALUE: "part"}
    assert [name for name, file in found.files.items() if store.owns(found, file)] == ["own.txt"]
    assert key_of(store).startswith("stage.parts/key/")


def test_outputs_stay_in_their_folder_are_written_once_and_completely(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    outputs.declare("twice", volatile=False).write_text("1")
    for name in ("../outside", "/outside", "a/../../outside", "twice"):
        with pytest.raises(ValueError, match=name):
            outputs.declare(name, volatile=False)
    with suppress(ZeroDivisionError), outputs.open("half") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(outputs.close()) == ["twice"]


# Damage, and records that were taken back


@pytest.mark.parametrize("harm", ["another size", "missing"])
def test_damage_is_noticed_and_what_is_withdrawn_makes_room(harm: str, store: Store) -> None:
    assert publish(store)
    assert store.damage(published(store)) is None
    if harm == "missing":
        gone = store.file_address(published(store).files[VALUE])
        put(store, key_of(store), None)
        (store.root / key_of(store)).unlink(missing_ok=True)  # this host's copy
        for address in (gone, store.address(store.new_attempt("stage", "print") / "never.txt")):
            with pytest.raises(LookupError):
                store.local(address)
    else:
        put(store, key_of(store), b"value!")
    for view in (store, store.seen(["stage"])):
        said = (view.damage(published(view)) or "").split()
        assert {VALUE} | (set() if harm == "missing" else {"6", "5"}) <= set(said)
    store.withdraw("stage", "print")
    assert (store.artifact("stage", "print"), store.withdrawn("stage", "print")) == (None, 1)
    assert publish(store, "value again")
    assert published(store).path(VALUE).read_text() == "value again"
    for _ in range(2):
        store.withdraw("stage", "print")
    assert store.withdrawn("stage", "print") == 2
    assert {record["summary"]["value"] for record in store.history()} == {"value", "value again"}
    assert list(store.records("stage")) == []


PARTLY = b'{"record_version": 1, "stage": "stage", "fingerprint": "print", "digest": "", "files": '
UNREADABLE = (
    b"", b"{", b"[]", b"null", b'"text"', b"\xff", b"[" * 100_000, b'{"record_version": 99}',
    b'{"record_version": 1}', PARTLY + b"[]}", PARTLY + b'{"a": {"path": "stage/a"}}}',
)  # fmt: skip


def test_a_record_that_cannot_be_read_counts_as_absent(store: Store) -> None:
    assert publish(store, fingerprint="good")
    cut = json.dumps(store.record("stage", "good")).encode()[:100]
    planted = {("stage", f"{number}"): data for number, data in enumerate([*UNREADABLE, cut])}
    for place, data in planted.items():
        put(store, f"{'/'.join(place)}/record.json", data)
    for view in (store, store.seen(["stage"])):
        for place, data in planted.items():
            assert (view.artifact(*place), view.record(*place)) == (None, None), data
            assert (view.published(*place), view.unreadable(*place)) == (True, True), data
        assert not view.unreadable("stage", "good")
        assert not view.unreadable("stage", "none")
        for records in (view.records("stage"), view.history()):
            assert [record["fingerprint"] for record in records] == ["good"]
    assert not publish(store, "late", "0")
    store.withdraw("stage", "0")
    assert publish(store, "again", "0")
    assert published(store, "0").path(VALUE).read_text() == "again"


def test_a_record_that_names_a_file_elsewhere_is_refused(store: Store) -> None:
    """A file of that name would be read, or written, outside of the store or of the cache."""
    assert publish(store)
    record: Any = store.record("stage", "print")
    entry = record["files"][VALUE]
    external_files: tuple[str, ...] = ("/etc/passwd", "../../x", "stage/../../x", "stage/\0", "")
    planted: list[dict[str, Any]] = [{"files": {wrong: entry}} for wrong in external_files]
    for path in (*external_files, "other/print/a/value.txt", 7):
        planted += [{"files": {VALUE: {**entry, "path": path}}}, {"stage": path}]
    for change in planted:
        put(store, "stage/print/record.json", json.dumps({**record, **change}).encode())
        for view in (store, store.seen(["stage"])):
            refuses(r"/print/record\.json", view.artifact, "stage", "print")


# Attempts, what is left in them, and what is shown


def test_any_host_lists_attempts_and_why_they_failed(store: Store, another_host: Move) -> None:
    made = [store.new_attempt("stage", "print") for _ in range(20)]  # several within a second
    store.fail(made[0], "out of paper", user=True)
    store.fail(made[1], "asked to end", user=True, stopped=True)
    put(store, f"stage/print/{made[2].name}/failure.json", b"{")
    another_host()
    here = Store.at(store.where)
    attempts = here.attempts("stage", "print")
    assert [attempt.name for attempt in attempts] == [attempt.name for attempt in made]
    expected = [Failure("out of paper", stopped=False), Failure("asked to end", stopped=True), None]
    assert [here.failure(attempt) for attempt in attempts] == expected + [None] * 17
    here.leave(here.root, "note.json", {"a": [1]})
    assert (store.left(store.root, "note.json"), store.left(store.root, "no")) == ({"a": [1]}, None)


def test_a_snapshot_answers_as_the_store_does(store: Store) -> None:
    made = (("a", "stage"), ("b", "stage"), ("c", "stage"), ("k", "stage.parts"), ("d", "other"))
    for fingerprint, stage in made:
        assert publish(store, fingerprint, fingerprint, stage=stage)
    store.withdraw("stage", "b")
    store.fail(store.new_attempt("stage", "b"), "why", user=True)
    seen = store.seen(["stage", "stage.parts"])
    seen.read_ahead("stage.parts", ["k", "none"])
    stage = [("stage", fingerprint) for fingerprint in ("a", "b", "none")]
    for place in [*stage, ("stage.parts", "k"), ("none", "a")]:
        for ask in ("record", "artifact", "published", "attempts", "withdrawn"):
            assert getattr(seen, ask)(*place) == getattr(store, ask)(*place), (ask, place)
    assert list(seen.records("none")) == list(store.records("none")) == []
    for view in (store, seen):
        assert [record["fingerprint"] for record in view.records("stage")] == ["a", "c"]
        history = sorted(record["fingerprint"] for record in view.history())
        assert history == ["a", "b", "c", "d"], "no part"


# Leases

ELSEWHERE = {"run": "elsewhere", "host": "another", "pid": 1, "token": "theirs"}


def holders(store: Store, *stages: str) -> list[object]:
    return [(store.lease(stage, "1").read() or {}).get("run") for stage in stages or ["stage"]]


def take(store: Store, run: str, *stages: str) -> Leases:
    leases = Leases(run)
    leases.take([store.lease(stage, "1") for stage in stages or ["stage"]])
    return leases


def plant(store: Store, stage: str = "stage", **holder: Any) -> None:
    """A lease whose holder has just been heard of."""
    assert store.lease(stage, "1").create({**ELSEWHERE, "beat": time.time(), **holder})


def expire(monkeypatch: Patch) -> None:
    """From now on a holder on another machine counts as gone."""
    monkeypatch.setattr("pipeline.store.lease.EXPIRY", 0.0)


def test_a_lease_keeps_others_out_and_names_the_holder(store: Store) -> None:
    first = take(store, "run-1", "a", "b")
    with pytest.raises(HeldError, match=rf"^b .*run-1 .*{os.getpid()}"):
        take(store, "run-2", "c", "b")
    assert holders(store, "a", "b", "c") == ["run-1", "run-1", None], "all of them or none"
    first.release()
    second = take(store, "run-2", "b")
    assert holders(store, "a", "b") == [None, "run-2"]
    second.release()


GARBAGE = {"g0": b"", "g1": b"{", "g2": b"[]", "g3": b"null", "g4": b"{}"}


def test_a_holder_counts_as_long_as_it_lives(store: Store, monkeypatch: Patch) -> None:
    """On this machine as long as its process does, elsewhere, or if it cannot be read, as long as
    it is heard of."""
    process = FORK.Process(target=lambda: (take(store, "dead"), os._exit(9)))
    process.start()
    process.join()
    started = psutil.Process().create_time() - 100  # of a process that had our number before
    plant(store, "reused", host=socket.gethostname(), pid=os.getpid(), started=started)
    plant(store, "elsewhere")
    assert holders(store, "stage", "reused") == ["dead", "elsewhere"]
    taken = [take(store, "next", "stage", "reused")]
    for stage, data in GARBAGE.items():
        put(store, f"{stage}/1/lease.json", data)
    for stage in ("elsewhere", *GARBAGE):
        with pytest.raises(HeldError):
            take(store, "next", stage)
    expire(monkeypatch)
    taken.append(take(store, "next", "elsewhere", *GARBAGE))
    assert set(holders(store, "stage", "reused", "elsewhere", *GARBAGE)) == {"next"}
    for leases in taken:
        leases.release()


def test_a_holder_keeps_all_its_leases_alive(store: Store, monkeypatch: Patch) -> None:
    monkeypatch.setattr("pipeline.store.lease.HEARTBEAT", 0.2)

    def beats() -> list[float]:
        return [(store.lease(stage, "1").read() or {})["beat"] for stage in ("a", "b")]

    taken, before = take(store, "run", "a", "b"), max(beats())
    wait_until(lambda: min(beats()) > before + 1.5, "heartbeats")
    taken.release()


@pytest.mark.parametrize(("dead", "stages"), [(False, "a"), (True, "a"), (True, "abc")])
def test_one_of_many_has_it(dead: bool, stages: str, store: Store, monkeypatch: Patch) -> None:
    """Of several leases too no two have some each; there all may refuse each other."""
    for stage in stages if dead else "":
        plant(store, stage)
    expire(monkeypatch)

    def want(store: Store, number: int, gate: Any) -> str | None:
        gate.wait()
        with suppress(HeldError):
            take(store, f"run-{number}", *stages)
            return f"run-{number}"
        return None

    winners = [run for run in race(want, store) if run]
    assert len(winners) == 1 or (not winners and len(stages) > 1)
    assert not winners or holders(store, *stages) == winners * len(stages)


def test_a_lease_that_was_taken_over_is_not_disturbed_by_its_old_holder(store: Store) -> None:
    old, lease = take(store, "old"), store.lease("stage", "1")
    mine: Any = lease.read()
    assert lease.seize({**ELSEWHERE, "beat": time.time()})
    assert not lease.seize({"run": "late", "token": "2"}), "it is another one than was read"
    store.lease("stage", "1").refresh({**mine, "beat": time.time()})
    assert holders(store) == ["elsewhere"]
    old.release()
    assert holders(store) == ["elsewhere"]
