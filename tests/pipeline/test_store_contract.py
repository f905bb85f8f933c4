"""What every store promises, asked of one in a folder and of one on S3 (moto's server)."""

import errno
import hashlib
import multiprocessing
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.execution.worker import Outputs
from pipeline.store import lease
from pipeline.store.base import Failure, LastRecord, Store, read_record
from pipeline.store.lease import HeldError, Holder, Leases
from pipeline.store.record import ArtifactRecord, DamagedArtifact
from pipeline.store.snapshot import StoreSnapshot
from stages.contract import StoredFolder
from tests.pipeline.conftest import VALUE, WHEN, Move, Patch, publish, publish_all, published, read
from tests.servers.process import wait_until

FORK = multiprocessing.get_context("fork")
WRITERS = 6
PLACE = ("stage", "print")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store."""
    is_folder = request.param == "folder"
    return Store.at(tmp_path / "store" if is_folder else request.getfixturevalue("s3_store"))


def race(work: Callable[[int, Any], Any]) -> list[Any]:
    """What `work` gives in each of several processes, which all live until the last one is done."""
    gate, results = FORK.Barrier(WRITERS), FORK.Queue()

    def run(number: int) -> None:
        results.put(work(number, gate))
        gate.wait()

    racers = [FORK.Process(target=run, args=(number,)) for number in range(WRITERS)]
    for racer in racers:
        racer.start()
    ended = [results.get(timeout=120) for _ in racers]
    for racer in racers:
        racer.join()
    return ended


def test_a_new_folder_is_its_users_alone(store: Store, tmp_path: Path) -> None:
    """The store, or what this host keeps of it; one that is there keeps its mode."""
    store.for_run("one")
    assert store.root.stat().st_mode & 0o777 == 0o700
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o755)
    assert Store.at(tmp_path / "there").for_run("one").root.stat().st_mode & 0o777 == 0o755


# Publishing


def test_of_many_writers_exactly_one_publishes(store: Store) -> None:
    def write(number: int, gate: Any) -> tuple[bool, str]:
        return publish(store, str(number), gate=gate), str(number)

    [winner] = [value for won, value in race(write) if won]
    found = published(store)
    assert read(store, found, VALUE) == found.summary["value"] == winner
    assert read(store, found, WHEN) == found.file(VALUE).key.split("/")[2]


def test_nothing_counts_before_its_record_and_a_late_writer_changes_nothing(store: Store) -> None:
    store.new_attempt(*PLACE)
    assert (store.artifact(*PLACE), store.last_record(*PLACE)) == (None, LastRecord())
    assert publish(store, "first")
    before = store.last_record(*PLACE)
    assert not publish(store, "second")
    assert store.last_record(*PLACE) == before
    assert read(store, published(store), VALUE) == "first"
    assert Store.existing(store.where) == pickle.loads(pickle.dumps(store)) == store


def test_a_file_is_shown_at_the_top_of_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish(store, "first")
    assert store.shown("report") is None
    store.show(published(store).file(VALUE), "report")
    assert store.shown("report") == f"{store.where}/report"
    assert store.objects.read("report") == b"first"
    monkeypatch.setattr(type(store.objects), "write", None)
    store.show(published(store).file(VALUE), "report")  # which is there: nothing is written


NAMES = ["a b", "a%20b", "q?x=1", "h#f", "pl+us", "q'\"s", "é", "e\u0301", "back\\slash", "d/e/f"]


def test_any_host_reads_what_was_written(store: Store, another_host: Move) -> None:
    written = {name: os.urandom(10_000) for name in NAMES}
    outputs = Outputs(store, store.new_attempt(*PLACE))
    for name, data in written.items():
        with outputs.open(name) as file:
            for start in range(0, len(data), 777):
                file.write(data[start : start + 777])
    assert publish_all(store, outputs)
    another_host()
    found = pickle.loads(pickle.dumps(published(Store.at(store.where))))
    assert sorted(found.files) == sorted(NAMES)
    folder = store.fetch_folder(found, "a b")
    for name, data in written.items():
        file = found.file(name)
        assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert "/" in name or (folder / name).read_bytes() == data, "comes with its folder"
        assert store.fetch(file).read_bytes() == data
    key, files = f"stage/print/{outputs.folder.name}", found.under("")
    another_host()
    given = {"files": [files[0], (*files, files[0])], "in": StoredFolder(key), "else": [1, {}]}
    paths, here = [store.path(file) for file in files], store.root / key
    expected = {"files": [paths[0], (*paths, paths[0])], "in": here, "else": [1, {}]}
    assert (store.localize(given), store.folder(here)) == (expected, given["in"])
    assert all(path.is_file() for path in paths)


def test_the_digest_is_that_of_what_is_not_volatile(store: Store) -> None:
    for fingerprint, value in (("one", "same"), ("two", "same"), ("three", "other")):
        assert publish(store, value, fingerprint)
    one, two, three = (published(store, fingerprint) for fingerprint in ("one", "two", "three"))
    assert one.file(WHEN).sha256 != two.file(WHEN).sha256
    line = f"{VALUE}\0{hashlib.sha256(b'same').hexdigest()}\n"
    assert one.digest == two.digest == hashlib.sha256(line.encode()).hexdigest() != three.digest


def test_the_files_of_a_part_are_read_where_they_are(store: Store, another_host: Move) -> None:
    assert publish(store, "part", "key", stage="stage.parts")
    outputs = Outputs(store, store.new_attempt(*PLACE))
    outputs.declare("own.txt", volatile=False).write_text("own")
    outputs.add(published(store, "key", "stage.parts").file(VALUE))
    assert publish_all(store, outputs)
    another_host()
    found = published(store)
    assert [read(store, found, name) for name in ("own.txt", VALUE)] == ["own", "part"]
    assert [file.key.split("/")[0] for file in found.under("")] == ["stage", "stage.parts"]


def test_outputs_stay_in_their_folder_are_written_once_and_completely(tmp_path: Path) -> None:
    outputs = Outputs(Store.at(tmp_path), tmp_path)
    outputs.declare("twice", volatile=False).write_text("1")
    for name in ("../outside", "/outside", "a/../../outside", "twice"):
        with pytest.raises(ValueError, match=name):
            outputs.declare(name, volatile=False)
    with suppress(ZeroDivisionError), outputs.open("half") as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert list(outputs.close()) == ["twice"]


# Damage


@pytest.mark.parametrize("harm", [None, b"value!", b"walue"])
def test_damage_is_noticed_and_what_is_withdrawn_makes_room(
    harm: bytes | None, store: Store, another_host: Move
) -> None:
    """A file that is missing, is longer, or has another bit; one of a folder has its old time."""
    assert publish(store)
    artifact: Any = store.record(*PLACE)
    file, listed = published(store).file(VALUE), harm != b"walue"
    path = store.for_run("one").fetch(file)
    before = path.stat().st_mtime_ns
    if harm is None:
        store.objects.remove([file.key])
    elif store.shared:
        path.write_bytes(harm)
        os.utime(path, ns=(before, before))
    else:
        store.objects.write(file.key, harm)
    another_host()
    for later in (Store.at(store.where).for_run("two"), Store.at(store.where)):
        with pytest.raises(DamagedArtifact, match=f"{VALUE}: the file .* record says") as caught:
            later.localize({"files": [file]})
        assert pickle.loads(pickle.dumps(caught.value)).keys == (file.key,)
    assert list(StoreSnapshot(store).damage(artifact)) == [file.key] * listed
    for number in (1, 2):
        for _ in range(2):
            store.withdraw(*PLACE, "damaged")
        last = store.last_record(*PLACE)
        assert (last, last.withdrawn) == (LastRecord(number), number)
        assert publish(store, f"again {number}")
        assert read(store, published(store), VALUE) == f"again {number}"
    history = [(one.summary["value"], one.withdrawn) for one in StoreSnapshot(store).history()]
    assert history == [("value", "damaged"), ("again 1", "damaged"), ("again 2", "")]


def test_a_file_is_checked_once_a_run_and_when_it_changed(store: Store, monkeypatch: Patch) -> None:
    kind, asked = type(store.objects), list[str]()
    obtain = kind.obtain
    monkeypatch.setattr(
        kind, "obtain", lambda self, *file: asked.append(file[0]) or obtain(self, *file)
    )
    publish(store)
    file = published(store).file(VALUE)

    def checks(run: str) -> int:
        """How many there are in processes of this run."""

        def fetch(_: int, gate: Any) -> int:
            gate.wait()
            assert store.for_run(run).fetch(file) == store.for_run(run).fetch(file)
            return len(asked)

        return sum(race(fetch))

    assert [checks("one"), checks("one"), checks("two"), checks("one")] == [1, 0, 1, 0]
    store.path(file).write_bytes(b"value")
    assert [checks("two"), checks("two"), checks("one"), asked] == [1, 0, 1, []]
    assert store.fetch(file) == store.fetch(file)
    assert asked == [file.key], "one that belongs to no run"


# Records that were taken back, or cannot be read


def test_a_late_withdrawal_spares_what_came_after(store: Store, monkeypatch: Patch) -> None:
    publish(store, "old")
    seen = store.last_record(*PLACE)
    store.withdraw(*PLACE, "damaged")
    publish(store, "new")
    with monkeypatch.context() as patch:
        patch.setattr(Store, "last_record", lambda *_: seen)
        store.withdraw(*PLACE, "late")
    assert read(store, published(store), VALUE) == "new"


def test_a_record_with_any_other_bit_is_not_read(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    publish(store)
    data = (tmp_path / "stage/print/record.json").read_bytes()
    assert read_record(data, 1, *PLACE).record == store.record(*PLACE)
    for place in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        assert read_record(bytes(flipped), 1, *PLACE).problem, place


def unreadable(record: ArtifactRecord) -> dict[str, bytes]:
    """What may be found in place of a record, by its fingerprint there."""
    [entry, _], data = record.files.values(), record.to_bytes()
    found = [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}", data[:100], data + b" "]
    found += [data.replace(b"value", b"walue"), b'{"record_version": 1}']
    changes: list[dict[str, Any]] = [{"fingerprint": "another"}, {"stage": "other"}, {"format": 3}]
    outside = ("/etc/passwd", "../../x", "stage/../../x", "stage/\0", "")
    changes += [{"files": {name: entry}} for name in outside]
    for key in (*outside, "other/print/a/value.txt", "stage/record.json"):
        changes.append({"files": {VALUE: replace(entry, key=key)}})
    for change in changes:
        change = {"fingerprint": str(len(found)), **change}
        found.append(record.model_copy(update=change).to_bytes())
    return {str(number): data for number, data in enumerate(found)}


def test_a_record_that_cannot_be_read_counts_as_absent(store: Store) -> None:
    """It is said, and nothing is published over it until it has been withdrawn and set aside."""
    assert publish(store, fingerprint="good")
    good: Any = store.record("stage", "good")
    planted = unreadable(good)
    for fingerprint, data in planted.items():
        store.objects.write(f"stage/{fingerprint}/record.json", data)
    for view in (snapshot := StoreSnapshot(store), store):
        for fingerprint in planted:
            last = view.last_record("stage", fingerprint)
            assert (last.number, last.record, last.withdrawn) == (1, None, 0), fingerprint
            assert last.problem.startswith("its record.json cannot be read: "), fingerprint
    assert [*snapshot.records("stage"), *snapshot.history()] == [good, good]
    for fingerprint, data in planted.items():
        assert not publish(store, "late", fingerprint)
        store.withdraw("stage", fingerprint, "unreadable")
        assert store.objects.read(f"stage/{fingerprint}/unreadable-1.json") == data
        assert publish(store, "again", fingerprint)
    store.objects.write("stage/0/record.json", b"withdrawn, then damaged")
    snapshot = StoreSnapshot(store)
    assert snapshot.last_record("stage", "0") == store.last_record("stage", "0")
    assert len(list(snapshot.records("stage"))) == len(list(snapshot.history())) == 1 + len(planted)


# Attempts, what is left in them, and what a snapshot shows


def test_any_host_lists_attempts_and_why_they_failed(store: Store, another_host: Move) -> None:
    made = [store.new_attempt(*PLACE) for _ in range(20)]  # several within a second
    store.fail(made[0], "out of paper")
    store.fail(made[1], "asked to end", stopped=True)
    store.objects.write(f"{store.key(made[2])}/failure.json", b"{")
    another_host()
    here = Store.at(store.where)
    attempts = here.attempts(*PLACE)
    assert [attempt.name for attempt in attempts] == [attempt.name for attempt in made]
    expected = [Failure("out of paper", stopped=False), Failure("asked to end", stopped=True), None]
    assert [here.failure(attempt) for attempt in attempts] == expected + [None] * 17
    here.leave(here.root, "note.json", {"a": [1]})
    assert (store.left(store.root, "note.json"), store.left(store.root, "no")) == ({"a": [1]}, None)


def test_a_snapshot_answers_as_the_store_does(store: Store) -> None:
    made = (("a", "stage"), ("b", "stage"), ("c", "stage"), ("k", "stage.parts"), ("d", "other"))
    for fingerprint, stage in made:
        assert publish(store, fingerprint, fingerprint, stage=stage)
    store.withdraw("stage", "b", "forced")
    store.fail(store.new_attempt("stage", "b"), "why")
    snapshot = StoreSnapshot(store)
    snapshot.prefetch("stage.parts", ["k", "none"])
    assert sorted(snapshot.stages()) == ["other", "stage", "stage.parts"]
    stage = [("stage", fingerprint) for fingerprint in ("a", "b", "none")]
    for place in [*stage, ("stage.parts", "k"), ("none", "a")]:
        for ask in ("last_record", "attempts"):
            assert getattr(snapshot, ask)(*place) == getattr(store, ask)(*place), (ask, place)
    assert list(snapshot.records("none")) == []
    assert [record.fingerprint for record in snapshot.records("stage")] == ["a", "c"]
    history = sorted(record.fingerprint for record in snapshot.history())
    assert history == ["a", "b", "c", "d"], "no part"


# Leases


def take(store: Store, run: str, *jobs: str) -> Leases:
    leases = Leases(store, run)
    leases.take(jobs)
    return leases


def holders(store: Store) -> dict[str, str]:
    """Who has each job, as the files say."""
    keys = sorted(entry.key for entry in store.objects.entries("leases/"))
    last = {key[7:-12]: Holder.from_bytes(store.objects.read(key) or b"") for key in keys}
    return {job: holder.run for job, holder in last.items() if holder and not holder.released}


def test_a_lease_keeps_others_out_and_names_the_holder(store: Store) -> None:
    first = take(store, "run-1", "a/1", "b/1")
    with pytest.raises(HeldError, match=rf"^b .*run-1 .*{os.getpid()}"):
        take(store, "run-2", "c/1", "b/1")
    assert holders(store) == {"a/1": "run-1", "b/1": "run-1"}, "all of them or none"
    first.take(["a/1", "c/1"])
    assert holders(store) == dict.fromkeys(("a/1", "b/1", "c/1"), "run-1")
    first.release()
    assert holders(store) == {}
    take(store, "run-2", "b/1").release()


def test_what_cannot_be_read_is_taken_over_and_set_aside(store: Store) -> None:
    garbage = {"a/1": b"", "b/1": b"{", "c/1": b"[]", "d/1": b"\xff"}
    for job, data in garbage.items():
        store.objects.write(f"leases/{job}/000007.json", data)
    said = list[str]()
    leases = Leases(store, "run", said.append)
    leases.take([*garbage])
    assert holders(store) == dict.fromkeys(garbage, "run")
    for job, data in garbage.items():
        [line] = [line for line in said if job in line]
        assert store.objects.read(line.split()[-1]) == data
    leases.release()


def test_what_a_full_store_does_not_take_back_is_free(store: Store, monkeypatch: Patch) -> None:
    """On the same host, where the holder's lock says that it has ended."""

    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    full = take(store, "full", "a/1")
    with monkeypatch.context() as patch:
        patch.setattr(type(store.objects), "write", write)
        full.release()
    assert holders(store) == {"a/1": "full"}
    said = list[str]()
    leases = Leases(store, "next", said.append)
    leases.take(["a/1"])
    assert said == [], "no one is waited for"
    leases.release()


def test_a_holder_elsewhere_counts_while_its_beat_changes(store: Store, monkeypatch: Patch) -> None:
    """Whatever the clocks say. One that was away finds out, and does not disturb its successor."""
    monkeypatch.setattr(lease, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lease, "EXPIRY", 3.0)
    ready, lost = FORK.Event(), FORK.Queue()

    def hold() -> None:
        monkeypatch.setattr(lease, "host_id", lambda: "elsewhere")
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() - 1e6)
        leases = take(store, "away", "a/1", "b/1")
        ready.set()
        wait_until(lambda: leases.lost, "a look at who has it")
        leases.release()
        lost.put(leases.lost)

    process: Any = FORK.Process(target=hold, daemon=True)
    process.start()
    assert ready.wait(120)
    for _ in range(3):
        with pytest.raises(HeldError, match=r"^a is locked by run away"):
            take(store, "next", "c/1", "a/1")
    os.kill(process.pid, signal.SIGSTOP)
    said = list[str]()
    leases = Leases(store, "next", said.append)
    leases.take(["a/1", "b/1", "c/1"])
    assert ["run away" in line for line in said] == [True, True]
    os.kill(process.pid, signal.SIGCONT)
    found = lost.get(timeout=120)
    assert found == dict.fromkeys(("a/1", "b/1"), f"run next on {socket.gethostname()}")
    assert holders(store) == dict.fromkeys(("a/1", "b/1", "c/1"), "next")
    leases.release()


def test_an_attempt_that_the_driver_named_may_have_events_already(tmp_path: Path) -> None:
    """The driver samples a job's system metrics from when it asks for the job."""
    store = Store.at(tmp_path / "store")
    early = store.root / "stage" / "print" / "named" / "events"
    early.mkdir(parents=True)
    assert store.new_attempt(*PLACE, "named") == early.parent
