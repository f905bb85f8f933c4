from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

import psutil
import pytest

from gpt1.errors import UserError
from pipeline.files import HashingWriter, create_once, read_json
from pipeline.lease import EXPIRY, HeldError, Leases, alive
from pipeline.parts import Outputs
from pipeline.store import Store


def publish(root: Path, value: str, gate: object = None) -> bool:
    store = Store.at(root)
    outputs = Outputs(store.new_attempt("stage", "print"))
    with outputs.open("value.txt") as file:
        file.write(value.encode())
    if gate is not None:
        gate.wait()  # type: ignore[attr-defined]
    return store.publish("stage", "print", outputs.close(), {})


def _race(root: Path, value: str, gate: object, results: object) -> None:
    results.put((value, publish(root, value, gate)))  # type: ignore[attr-defined]


def test_of_many_writers_exactly_one_publishes(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    gate, results = spawn.Barrier(8), spawn.Queue()
    racers = [spawn.Process(target=_race, args=(tmp_path, str(i), gate, results)) for i in range(8)]
    for racer in racers:
        racer.start()
    ended = dict(results.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    winners = [value for value, won in ended.items() if won]
    artifact = Store.at(tmp_path).artifact("stage", "print")
    assert artifact is not None
    assert [artifact.path("value.txt").read_text()] == winners
    assert not list((tmp_path / "stage" / "print").glob(".*"))


def test_attempts_are_listed_oldest_first_within_a_second_too(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    made = [store.new_attempt("stage", "print") for _ in range(20)]
    assert store.attempts("stage", "print") == made


def test_a_late_writer_changes_nothing(tmp_path: Path) -> None:
    assert publish(tmp_path, "first")
    before = (tmp_path / "stage" / "print" / "record.json").read_bytes()
    assert not publish(tmp_path, "second")
    assert (tmp_path / "stage" / "print" / "record.json").read_bytes() == before


def test_damage_is_seen_and_named(tmp_path: Path) -> None:
    publish(tmp_path, "value")
    store = Store.at(tmp_path)
    artifact = store.artifact("stage", "print")
    assert artifact is not None
    assert store.damage(artifact) is None
    with artifact.path("value.txt").open("ab") as file:
        file.write(b"!")
    assert store.damage(artifact) == "file value.txt has 6 bytes in the store, its record says 5"
    artifact.path("value.txt").unlink()
    assert store.damage(artifact) == "file value.txt is missing from the store"


def test_a_record_cut_short_counts_as_absent(tmp_path: Path) -> None:
    publish(tmp_path, "value")
    record = tmp_path / "stage" / "print" / "record.json"
    record.write_bytes(record.read_bytes()[:100])
    assert Store.at(tmp_path).artifact("stage", "print") is None


def test_hash_is_of_what_was_written(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    with HashingWriter(tmp_path / "file") as file:
        for start in range(0, len(data), 777):
            file.write(data[start : start + 777])
    assert (tmp_path / "file").read_bytes() == data
    assert (file.sha256, file.size) == (hashlib.sha256(data).hexdigest(), len(data))


def test_outputs_stay_in_their_folder_and_are_written_once(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    for name in ("../outside", "/outside", "a/../../outside"):
        with pytest.raises(ValueError, match="leaves the attempt's folder"):
            outputs.declare(name, volatile=False)
    outputs.declare("twice", volatile=False).write_text("1")
    with pytest.raises(ValueError, match="used twice"):
        outputs.declare("twice", volatile=False)


def _write_half(outputs: Outputs) -> None:
    with outputs.open("half") as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_a_file_of_a_failed_block_is_no_output(tmp_path: Path) -> None:
    outputs = Outputs(tmp_path)
    with pytest.raises(ZeroDivisionError):
        _write_half(outputs)
    assert outputs.close() == {}


def test_volatile_files_do_not_enter_the_digest(tmp_path: Path) -> None:
    digests = set()
    for number in range(2):
        store = Store.at(tmp_path / str(number))
        outputs = Outputs(store.new_attempt("stage", "print"))
        outputs.declare("same", volatile=False).write_text("same")
        outputs.declare("when", volatile=True).write_text(str(number))
        store.publish("stage", "print", outputs.close(), {})
        artifact = store.artifact("stage", "print")
        assert artifact is not None
        digests.add(artifact.digest)
    assert len(digests) == 1


def test_a_store_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as a store"):
        Store.at(tmp_path / "file" / "store")


def test_a_lease_keeps_others_out_and_names_the_holder(tmp_path: Path) -> None:
    first, second = Leases("run-1"), Leases("run-2")
    first.take([tmp_path / "a" / "1", tmp_path / "b" / "1"])
    with pytest.raises(HeldError, match=f"b is being made by run run-1 .process {os.getpid()}"):
        second.take([tmp_path / "c" / "1", tmp_path / "b" / "1"])
    assert not (tmp_path / "c" / "1" / "lease.json").exists()
    first.release()
    second.take([tmp_path / "b" / "1"])
    second.release()


def _take_and_die(folder: Path) -> None:
    Leases("dead").take([folder])
    os._exit(9)


def test_a_dead_holder_is_no_holder(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(tmp_path / "a",))
    process.start()
    process.join()
    assert (tmp_path / "a" / "lease.json").exists()
    taken = Leases("next")
    taken.take([tmp_path / "a"])
    taken.release()


def test_elsewhere_the_heartbeat_decides() -> None:
    assert alive({"host": "another", "pid": 1, "beat": time.time() - EXPIRY / 2})
    assert not alive({"host": "another", "pid": 1, "beat": time.time() - EXPIRY * 2})
    me = psutil.Process()
    assert alive({"host": socket.gethostname(), "pid": me.pid, "started": me.create_time(), "beat": 0})
    assert not alive({"host": socket.gethostname(), "pid": me.pid, "started": me.create_time() - 100, "beat": time.time()})


def test_create_once_never_shows_a_half_file(tmp_path: Path) -> None:
    assert create_once(tmp_path / "x.json", {"a": 1})
    assert not create_once(tmp_path / "x.json", {"a": 2})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    (tmp_path / "y.json").write_text(json.dumps({"a": 1})[:-1])
    assert read_json(tmp_path / "y.json") is None


@pytest.mark.parametrize("wrong", ["/etc/passwd", "../../x", "stage/../../x", "stage/\0", "", "other/print/a/value.txt", 7])
@pytest.mark.parametrize("what", ["path", "name"])
def test_a_record_that_names_a_file_elsewhere_is_refused(wrong: object, what: str, tmp_path: Path) -> None:
    assert publish(tmp_path, "value")
    file = tmp_path / "stage" / "print" / "record.json"
    record = json.loads(file.read_text())
    if what == "path":
        record["files"]["value.txt"]["path"] = wrong
    else:
        record["files"] = {str(wrong): record["files"]["value.txt"]}
    if what == "name" and wrong in ("other/print/a/value.txt", 7):
        return  # a name inside the artifact, and not a path in the store
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"stage/print/record\.json: names the file"):
        Store.at(tmp_path).artifact("stage", "print")
