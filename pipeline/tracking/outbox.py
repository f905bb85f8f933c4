"""The outbox: what is to be recorded, as JSON lines in the store, until the tracking server has
acknowledged it.

    STORE/outbox/<session>.jsonl   the entries of one driver, in order; locked while it lives
    STORE/outbox/<session>.ack     how many bytes of them the server has acknowledged
    STORE/outbox/ledger.json       of delivered sessions: runs started, ended, highest steps

Sessions are named by the time of their start, so their order is that of their names; where a clock
would put a new one before one that is known (another host's clock is fast, or this one was set
back), it is named just after that. Nothing here knows of MLflow.
"""

from __future__ import annotations

import calendar
import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import IO

from pipeline.store.atomic import read_json, replace_file, to_json
from pipeline.tracking.outbox_runs import Entry, Run, due, fold

STAMP = "%Y%m%dT%H%M%S"  # UTC, of whole seconds


class Outbox:
    """All sessions of one store.

    A session file is made at the first `append`; any number of threads may append.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._unsynced = False
        # Sessions before the ledger: one that is folded into the ledger meanwhile is then seen in
        # one of the two.
        found = [(session, self._bytes(session, 0)) for session in self.sessions()]
        self.runs = self._ledger()
        for session, data in found:
            fold(self.runs, session, _parse(data))
        known = {session for session, _ in found}
        for run in self.runs.values():
            known.update([run.session], *run.told.values())
        now = max(time.time_ns(), 1 + max(map(_begun_at, known), default=0))
        stamp = time.strftime(STAMP, time.gmtime(now // 10**9))
        self.session = f"{stamp}.{now % 10**9:09d}-{os.getpid()}-{secrets.token_hex(2)}"

    def append(self, entry: Entry) -> bool:
        """Write one entry.

        False when it is dropped: all its points lie at steps recorded before. Raises OSError (disk
        full).
        """
        with self._lock:
            if entry["do"] == "metrics":
                steps = self.runs[entry["uid"]].steps if entry["uid"] in self.runs else {}
                values = {
                    name: value
                    for name, value in entry["values"].items()
                    if steps.get(name, -1) < entry["step"]
                }
                if not values:
                    return False
                entry = {**entry, "values": values}
            line = (
                json.dumps(
                    entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")
                ).encode()
                + b"\n"
            )
            self._open().write(line)
            self._unsynced = True
            fold(self.runs, self.session, [entry])
            return True

    def sync(self) -> None:
        """Make what was appended durable."""
        with self._lock:  # a copy of the descriptor: another thread may close the file meanwhile
            copy = (
                os.dup(self._file.fileno()) if self._file is not None and self._unsynced else None
            )
            self._unsynced = False
        if copy is not None:
            os.fsync(copy)
            os.close(copy)

    def sessions(self) -> list[str]:
        """All sessions, oldest first."""
        return sorted(path.name.removesuffix(".jsonl") for path in self.folder.glob("*.jsonl"))

    def read(self, session: str, limit: int, until: float = inf) -> tuple[list[Entry], int]:
        """At most `limit` entries that are not acknowledged and end before the offset `until`,
        and the offset in bytes behind them (to be handed to `ack`).
        """
        end = offset = self.acknowledged(session)
        lines: list[bytes] = []
        with (self.folder / f"{session}.jsonl").open("rb") as file:
            file.seek(offset)
            for line in file:
                if (
                    len(lines) == limit or not line.endswith(b"\n") or end + len(line) > until
                ):  # a killed driver's last may be torn
                    break
                lines.append(line)
                end += len(line)
        return _parse(b"".join(lines)), end

    def due(self, session: str, entries: Iterable[Entry]) -> list[Entry]:
        """What is to be sent of a session's entries: not what comes too late."""
        return due(self.runs, session, entries, self._begun)

    def _begun(self, session: str) -> bool:
        """Whether the server has something of a session."""
        return not (self.folder / f"{session}.jsonl").exists() or self.acknowledged(session) > 0

    def ack(self, session: str, offset: int) -> None:
        """The server has everything before `offset`."""
        replace_file(self.folder / f"{session}.ack", to_json(offset))

    def acknowledged(self, session: str) -> int:
        """The acknowledged offset, in bytes."""
        offset = read_json(self.folder / f"{session}.ack")
        return offset if isinstance(offset, int) else 0

    def left(self) -> int:
        """How many entries are not acknowledged."""
        return sum(
            self._bytes(session, self.acknowledged(session)).count(b"\n")
            for session in self.sessions()
        )

    def left_open(self) -> list[str]:
        """Runs that were started and not ended by drivers that live no more, in the order of
        their start.
        """
        dead = {
            session
            for session in {run.session for run in self.runs.values()}
            if not self._alive(session)
        }
        return [uid for uid, run in self.runs.items() if run.open and run.session in dead]

    def compact(self) -> None:
        """Fold sessions that are delivered and whose drivers are gone into the ledger.

        Only for the one who sends.
        """
        done = [
            s
            for s in self.sessions()
            if not self._alive(s) and not self._bytes(s, self.acknowledged(s)).count(b"\n")
        ]
        ledger = self._ledger() if done else {}
        for session in done:
            fold(ledger, session, _parse(self._bytes(session, 0)))
        if done:
            found = {uid: asdict(run) for uid, run in ledger.items()}
            replace_file(self.folder / "ledger.json", to_json(found))
        for session in done:
            (self.folder / f"{session}.jsonl").unlink(missing_ok=True)
            (self.folder / f"{session}.ack").unlink(missing_ok=True)

    def close(self) -> None:
        """End this session: its file is durable and no longer locked."""
        self.sync()
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _open(self) -> IO[bytes]:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = (self.folder / f"{self.session}.jsonl").open("ab", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        return self._file

    def _alive(self, session: str) -> bool:
        try:
            with (self.folder / f"{session}.jsonl").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def _bytes(self, session: str, offset: int) -> bytes:
        with suppress(FileNotFoundError), (self.folder / f"{session}.jsonl").open("rb") as file:
            file.seek(offset)
            return file.read()
        return b""

    def _ledger(self) -> dict[str, Run]:
        return {
            uid: Run(**run) for uid, run in (read_json(self.folder / "ledger.json") or {}).items()
        }


def _begun_at(session: str) -> int:
    """The time in a session's name, in ns since 1970; 0 for a name of another form."""
    with suppress(ValueError):
        stamp, rest = session.partition("-")[0].split(".")
        return calendar.timegm(time.strptime(stamp, STAMP)) * 10**9 + int(rest)
    return 0


def _parse(data: bytes) -> list[Entry]:
    """The entries of whole lines; a line that is no entry (a damaged disk) is left out."""
    entries = []
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and {"do", "uid"} <= entry.keys():
                entries.append(entry)
    return entries
