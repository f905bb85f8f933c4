"""The outbox of a remote store: a copy, beside the results, of the lines that a driver writes on
its own host.

    outbox/<session>/<offset>.jsonl   the lines from that byte on; at most PIECE bytes
    outbox/<session>/ack.json         how many bytes the tracking server has acknowledged
    outbox/<session>/alive.json       which process writes them; written again every BEAT seconds
    outbox/ledger.json                as in a folder

So what a dead host had not sent is sent by whoever works on the store next, or by `gpt1 track
sync`, from any host. Lines are here before the tracking server has them: who goes on with a run
elsewhere knows every point that is drawn.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from gpt1.errors import UserError
from pipeline.store.atomic import parse_json, read_json, replace_file, to_json
from pipeline.store.cache import host_id
from pipeline.store.lease import EXPIRY
from pipeline.store.objects import ListedObject
from pipeline.store.s3 import S3Objects

EVERY = 3.0  # seconds between two looks for new lines
BEAT = 15.0
PIECE = 256 << 10  # bytes
FOLDER = "outbox"
ALIVE = "alive.json"


class OutboxMirror:
    """Copies between `folder`, the outbox on this host, and the store.

    `pull` first, then `start`, then `stop`.
    """

    def __init__(self, objects: S3Objects, folder: Path) -> None:
        self._objects = objects
        self._folder = folder
        self._pieces: dict[str, tuple[int, int]] = {}
        """Session -> where its last piece begins, and how far it was sent."""
        self._acks: dict[str, int] = {}
        self._ledger = b""
        self._session = ""
        self._beat = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def pull(self) -> None:
        """Have here what dead drivers of other hosts left."""
        listed: dict[str, list[ListedObject]] = {}
        for entry in self._objects.entries(f"{FOLDER}/"):
            session, _, name = entry.key.removeprefix(f"{FOLDER}/").rpartition("/")
            if session and name:
                listed.setdefault(session, []).append(entry)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pull_ledger()
        for session, entries in listed.items():
            self._pull_session(
                session, sorted(entry.key for entry in entries if entry.key.endswith(".jsonl"))
            )

    def start(self, session: str) -> None:
        """Send what is written here from now on, from a thread; `session` is this process's own."""
        self._session = session
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
            self._thread.start()

    def secure(self, session: str) -> int:
        """Have a session's lines in the store; up to which byte they are there.

        Waits for the store, and raises UserError when it stays away.
        """
        with self._lock, suppress(FileNotFoundError):
            self._push_lines(session, self._folder / f"{session}.jsonl")
        return self._pieces.get(session, (0, 0))[1]

    def stop(self) -> None:
        """Send the rest, and say that this process's session is over."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            with suppress(UserError, OSError):
                self._push()
                self._objects.remove([f"{FOLDER}/{self._session}/{ALIVE}"])

    def _work(self) -> None:
        while not self._stop.is_set():
            with suppress(
                UserError, OSError
            ):  # a store out of reach stops nothing; the next look sends what is new then
                self._push()
            self._stop.wait(EVERY)

    def _push(self) -> None:
        if time.monotonic() - self._beat > BEAT:
            me = psutil.Process()
            word = {
                "host": socket.gethostname(), "machine": host_id(), "pid": me.pid,
                "started": me.create_time(),
            }
            self._write(f"{self._session}/{ALIVE}", word)
            self._beat = time.monotonic()
        # Before the files: a session that is folded into the ledger meanwhile must not be missing
        # in both. A copy of the names: `secure`, in another thread, adds some.
        gone = [
            session
            for session in list(self._pieces)
            if not (self._folder / f"{session}.jsonl").exists()
        ]
        self._push_ledger()
        for session in gone:
            self._objects.remove(
                [entry.key for entry in self._objects.entries(f"{FOLDER}/{session}/")]
            )
            del self._pieces[session]
        for file in sorted(self._folder.glob("*.jsonl")):
            session = file.name.removesuffix(".jsonl")
            with self._lock, suppress(FileNotFoundError):
                self._push_lines(session, file)
            self._push_ack(session)

    def _push_lines(self, session: str, file: Path) -> None:
        start, sent = self._pieces.setdefault(session, (0, 0))
        size = file.stat().st_size
        while sent < size:
            with file.open("rb") as lines:
                lines.seek(start)
                data = lines.read(PIECE)
            self._objects.write(f"{FOLDER}/{session}/{start:020d}.jsonl", data)
            sent = start + len(data)
            start = sent if len(data) == PIECE else start
            self._pieces[session] = start, sent
            if len(data) < PIECE:
                break

    def _push_ack(self, session: str) -> None:
        ack = read_json(self._folder / f"{session}.ack")
        if isinstance(ack, int) and ack != self._acks.get(session):
            self._write(f"{session}/ack.json", ack)
            self._acks[session] = ack

    def _push_ledger(self) -> None:
        with suppress(FileNotFoundError):
            data = (self._folder / "ledger.json").read_bytes()
            if data != self._ledger:
                self._objects.write(f"{FOLDER}/ledger.json", data)
                self._ledger = data

    def _pull_ledger(self) -> None:
        found = self._objects.read(f"{FOLDER}/ledger.json")
        if found is None:
            return
        here = read_json(self._folder / "ledger.json") or {}
        replace_file(self._folder / "ledger.json", to_json(newest(here, json.loads(found))))

    def _pull_session(self, session: str, keys: list[str]) -> None:
        if self._is_alive(f"{FOLDER}/{session}/{ALIVE}"):
            return
        file = self._folder / f"{session}.jsonl"
        pieces = {
            int(Path(key).stem): data for key in keys if (data := self._objects.read(key))
        }
        size = max((start + len(data) for start, data in pieces.items()), default=0)
        if size and (not file.exists() or file.stat().st_size < size):
            private = file.with_name(f".{file.name}-{os.getpid()}")
            with private.open("wb") as lines:
                for start, data in pieces.items():
                    lines.seek(start)
                    lines.write(data)
            private.replace(file)
        ack = self._objects.read(f"{FOLDER}/{session}/ack.json")
        here = read_json(self._folder / f"{session}.ack")
        if ack is not None and int(ack) > (here if isinstance(here, int) else 0):
            replace_file(self._folder / f"{session}.ack", to_json(int(ack)))
        self._pieces[session] = max(pieces, default=0), size

    def _is_alive(self, key: str) -> bool:
        """Whether a session's process lives: on this host it is looked up, elsewhere the age of
        its last word decides, by the server's clock.
        """
        found = parse_json(self._objects.read(key))
        if not isinstance(found, dict):
            return False
        if (found.get("host"), found.get("machine")) == (socket.gethostname(), host_id()):
            try:
                return abs(psutil.Process(found["pid"]).create_time() - found["started"]) < 1
            except (psutil.NoSuchProcess, KeyError):
                return False
        age = self._objects.age(key)
        return age is not None and age < EXPIRY

    def _write(self, name: str, data: Any) -> None:
        self._objects.write(f"{FOLDER}/{name}", json.dumps(data).encode())


def newest(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two ledgers in one: of a run that both know, what its last start led to."""
    merged = {**one, **other}
    for uid in one.keys() & other.keys():
        merged[uid] = max(
            one[uid], other[uid], key=lambda run: (run["session"], run["last"], not run["open"])
        )
        told = [one[uid].get("told", {}), other[uid].get("told", {})]
        merged[uid]["told"] = {
            name: {**told[0].get(name, {}), **told[1].get(name, {})}
            for name in {*told[0], *told[1]}
        }
        steps = [one[uid]["steps"], other[uid]["steps"]]
        merged[uid]["steps"] = {
            name: max(found.get(name, -1) for found in steps) for name in {*steps[0], *steps[1]}
        }
    return merged
