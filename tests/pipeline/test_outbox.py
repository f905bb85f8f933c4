"""The outbox: order, acknowledgement, torn lines, dropped steps, killed drivers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.outbox import Entry, Outbox


def point(uid: str, step: int, time: int = 0, **values: float) -> Entry:
    return {"do": "metrics", "uid": uid, "time": time, "step": step, "values": values}


def start(uid: str, time: int = 0) -> Entry:
    return {"do": "start", "uid": uid, "time": time, "name": uid, "parent": None, "tags": {}}


def test_what_is_appended_is_read_in_order_until_acknowledged(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    entries = [start("a"), point("a", 1, loss=2.5), {"do": "tags", "uid": "a", "values": {"note": "é\n\u2028"}}]
    for entry in entries:
        assert outbox.append(entry)
    first, offset = outbox.read(outbox.session, 2)
    assert first == entries[:2]
    outbox.ack(outbox.session, offset)
    assert Outbox(tmp_path).left() == outbox.left() == 1
    rest, offset = outbox.read(outbox.session, 100)
    assert rest == entries[2:]
    outbox.ack(outbox.session, offset)
    assert outbox.left() == 0
    assert outbox.read(outbox.session, 100) == ([], offset)


def test_a_point_is_accepted_once_also_by_the_next_driver(tmp_path: Path) -> None:
    first = Outbox(tmp_path)
    assert first.append(point("a", 5, loss=1.0))
    assert not first.append(point("a", 5, loss=1.0))
    assert first.append(point("a", 5, accuracy=0.5)), "another curve of the same run"
    assert first.append(point("b", 5, loss=1.0)), "another run"
    first.close()
    second = Outbox(tmp_path)
    assert not second.append(point("a", 4, loss=1.0, accuracy=1.0))
    assert second.append(point("a", 5, loss=9.0, lr=0.1))
    assert second.read(second.session, 9)[0] == [point("a", 5, lr=0.1)]
    assert second.append(point("a", 6, loss=9.0))


def test_the_torn_line_of_a_killed_driver_is_left_out(tmp_path: Path) -> None:
    killed = Outbox(tmp_path)
    killed.append(point("a", 1, loss=1.0))
    killed.close()
    with (tmp_path / f"{killed.session}.jsonl").open("ab") as file:
        file.write(b'{"do":"metrics","uid":"a","st')
    after = Outbox(tmp_path)
    assert after.left() == 1
    entries, offset = after.read(killed.session, 10)
    assert entries == [point("a", 1, loss=1.0)]
    after.ack(killed.session, offset)
    assert after.left() == 0
    after.compact()
    assert after.sessions() == []


def test_a_damaged_line_costs_itself_alone(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append(start("a"))
    with (tmp_path / f"{outbox.session}.jsonl").open("ab") as file:
        file.write(b"\x00\x00garbage\n")
    outbox.append(point("a", 1, loss=1.0))
    assert outbox.read(outbox.session, 10)[0] == [start("a"), point("a", 1, loss=1.0)]
    assert Outbox(tmp_path).runs["a"].steps == {"loss": 1}


def test_delivered_sessions_become_the_ledger_and_nothing_is_forgotten(tmp_path: Path) -> None:
    for session in range(3):
        outbox = Outbox(tmp_path)
        for entry in [start("a", time=session), point("a", 10 * (session + 1), time=50 + session, loss=1.0)]:
            outbox.append(entry)
        outbox.ack(outbox.session, outbox.read(outbox.session, 10)[1])
        outbox.compact()
        assert outbox.sessions() == [outbox.session], "the session of a living driver stays"
        outbox.close()
    outbox.compact()
    assert outbox.sessions() == []
    after = Outbox(tmp_path)
    assert after.runs["a"].steps == {"loss": 30}
    assert (after.runs["a"].open, after.runs["a"].last, after.runs["a"].start) == (True, 52, start("a", time=2))
    assert not after.append(point("a", 30, loss=2.0))


def test_what_is_not_delivered_is_not_compacted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append(start("a"))
    outbox.close()
    Outbox(tmp_path).compact()
    assert Outbox(tmp_path).left() == 1


def test_runs_of_a_killed_driver_are_left_open_and_those_of_a_living_one_are_not(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pipeline.outbox import Outbox\n"
        "box = Outbox(Path(sys.argv[1]))\n"
        "for uid in 'abc': box.append({'do': 'start', 'uid': uid, 'time': 7, 'name': uid, 'parent': None, 'tags': {}})\n"
        "box.append({'do': 'end', 'uid': 'b', 'time': 8, 'status': 'FINISHED'})\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        assert Outbox(tmp_path).left_open() == []
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        driver.stdout.close()  # type: ignore[union-attr]
    after = Outbox(tmp_path)
    assert after.left_open() == ["a", "c"]
    after.append(start("a"))
    assert after.left_open() == ["c"], "opened again by this driver"


def test_appending_from_many_threads_tears_no_line(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)

    def work(uid: str) -> None:
        for step in range(200):
            outbox.append(point(uid, step, loss=float(step), note=0.1))

    threads = [threading.Thread(target=work, args=(f"run{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = outbox.read(outbox.session, 10_000)[0]
    assert len(entries) == 1600
    for number in range(8):
        assert [entry["step"] for entry in entries if entry["uid"] == f"run{number}"] == list(range(200))


def test_what_comes_late_from_a_host_that_was_away_undoes_and_doubles_nothing(tmp_path: Path) -> None:
    """The first driver's host is cut off: another host knows half of its lines, goes on with the run, and ends it."""
    first = Outbox(tmp_path / "one")
    lines = [start("a"), point("a", 10, loss=1.0), point("a", 20, loss=2.0), point("a", 30, loss=3.0, lr=0.3)]
    for entry in lines:
        first.append(entry)
    first.close()
    known = (tmp_path / "one" / f"{first.session}.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / f"{first.session}.jsonl").write_bytes(b"".join(known[:2]))
    second = Outbox(tmp_path / "two")
    end = {"do": "end", "uid": "a", "time": 9}
    for entry in [start("a"), point("a", 20, loss=2.0, time=7), point("a", 30, loss=3.0, time=8), end]:
        assert second.append(entry)
    assert second.due(first.session, lines[:2]) == lines[:2], "nothing has been sent yet: all in its order"
    second.close()
    for session in second.sessions():
        second.ack(session, (tmp_path / "two" / f"{session}.jsonl").stat().st_size)
    second.compact()
    (tmp_path / "one" / "ledger.json").write_bytes((tmp_path / "two" / "ledger.json").read_bytes())
    back = Outbox(tmp_path / "one")
    assert back.left_open() == []
    assert back.due(first.session, lines) == [point("a", 10, loss=1.0), point("a", 30, lr=0.3)]
    assert not back.append(point("a", 30, loss=9.0))


@pytest.mark.parametrize("compacted", [False, True])
def test_a_session_comes_after_one_whose_clock_was_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compacted: bool) -> None:
    """A cell failed on a host whose clock is two minutes fast, and is run again from another host."""
    now = time.time_ns()
    with monkeypatch.context() as fast:
        fast.setattr(time, "time_ns", lambda: now + 120 * 10**9)
        first = Outbox(tmp_path)
    end: Entry = {"do": "end", "uid": "a", "time": 9, "status": "FAILED"}
    for entry in [start("a"), point("a", 10, loss=1.0), end]:
        assert first.append(entry)
    first.ack(first.session, first.read(first.session, 10)[1])
    first.close()
    if compacted:
        first.compact()
        assert first.sessions() == []
    second = Outbox(tmp_path)
    assert second.session > first.session
    lines: list[Entry] = [start("a", time=10), {"do": "params", "uid": "a", "values": {"lr": "1"}}, point("a", 20, loss=0.5), end]
    for entry in lines:
        assert second.append(entry)
    assert second.due(second.session, second.read(second.session, 10)[0]) == lines
    assert not second.runs["a"].open
    assert Outbox(tmp_path).session > second.session, "the clock is behind for two minutes"
