"""What happened, as JSON lines in the store: what MLflow shows of a run follows from it.

    runs/<run>/events/<writer>-0000.jsonl                        the driver: jobs, how they ended
    <stage>/<fingerprint>/<attempt>/events/<writer>-0000.jsonl   points of curves

Each process that writes has files of its own, so no line waits for another, and only the last one
of a killed process can be torn. In a bucket the lines are collected for PERIOD, and go to an object
that is written again until it has PIECE bytes; then the next number begins.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gpt1.errors import UserError
from pipeline.store.base import EVENTS, Store
from pipeline.store.lease import RUNS as RUNS

PERIOD = 3.0  # seconds between two writes to a bucket
PIECE = 256 << 10  # bytes


class EventLog:
    """Appends events below a folder of the store. Picklable: every process gets files of its own.

    Writing never raises: lines that cannot be written (a full disk) are kept, and written as soon
    as it works. `info` gets a line when that begins, and when lines are lost in the end.
    """

    def __init__(
        self, store: Store, folder: str, info: Callable[[str], None] = lambda _: None
    ) -> None:
        self._store, self._folder, self._info = store, folder, info
        self._writer = f"{time.time_ns()}-{secrets.token_hex(3)}"
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._piece, self._sent = 0, b""
        self._file: int | None = None
        self._failed = ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store, self._folder)

    def write(self, **event: Any) -> None:
        """Append one event; its `time` is now, in seconds since 1970, where none is given."""
        line = json.dumps({"time": time.time(), **event}, separators=(",", ":"), default=str)
        with self._lock:
            self._waiting.append(line.encode() + b"\n")
            if self._store.shared:
                self._send()
            elif self._thread is None:
                self._thread = threading.Thread(target=self._send_on, name="events", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Write what waits, if it can be written."""
        with self._lock:
            self._send()

    def close(self) -> None:
        """Write what waits; nothing comes after."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        if self._waiting:
            self._info(f"{len(self._waiting)} events were lost ({self._failed})")
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _send_on(self) -> None:
        while not self._over.wait(PERIOD):
            self.flush()

    def _send(self) -> None:
        data = b"".join(self._waiting)
        if not data:
            return
        try:
            self._append(data) if self._store.shared else self._upload(data)
        except (OSError, UserError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            if not self._failed:
                self._info(f"events cannot be written ({why}); they wait in memory")
            self._failed = why
            return
        self._waiting.clear()
        self._failed = ""

    def _append(self, data: bytes) -> None:
        if self._file is None:
            path = self._store.root / self._key()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        before = os.fstat(self._file).st_size
        if os.write(self._file, data) < len(data):  # the disk's last bytes
            os.ftruncate(self._file, before)
            raise OSError(28, "No space left on device")

    def _upload(self, data: bytes) -> None:
        if len(self._sent) > PIECE:
            self._piece, self._sent = self._piece + 1, b""
        self._store.objects.write(self._key(), self._sent + data)
        self._sent += data

    def _key(self) -> str:
        return f"{self._folder}/{EVENTS}/{self._writer}-{self._piece:04d}.jsonl"


class Logged(NamedTuple):
    """An event, and the process that wrote it."""

    writer: str
    event: Mapping[str, Any]


@dataclass
class EventReader:
    """Reads the events below a folder of the store, each once, in the order of their writers."""

    store: Store
    folder: str
    info: Callable[[str], None] = lambda _: None
    last: float = 0.0
    """The time of the newest event, in seconds since 1970."""
    _offsets: dict[str, int] = field(default_factory=dict)
    _torn: set[str] = field(default_factory=set)

    def read(self) -> list[Logged]:
        """The events since the last call. A line that cannot be read is skipped, and that is said;
        one without an end may be about to get it.
        """
        found = []
        for entry in sorted(self.store.objects.entries(f"{self.folder}/{EVENTS}/")):
            offset = self._offsets.get(entry.key, 0)
            if entry.size <= offset:
                continue
            data = self._read(entry.key, offset)
            end = data.rfind(b"\n") + 1
            (self._torn.add if data[end:] else self._torn.discard)(entry.key)
            data = data[:end]
            self._offsets[entry.key] = offset + end
            writer = entry.key.rpartition("/")[2].rpartition("-")[0]
            for line in data.splitlines():
                event = _parse(line)
                if event is None:
                    self.info(f"{entry.key}: skipped a damaged line")
                else:
                    self.last = max(self.last, event["time"])
                    found.append(Logged(writer, event))
        return found

    def close(self) -> None:
        """Say which files end with a part of a line, now that no one writes to them."""
        for key in sorted(self._torn):
            self.info(f"{key}: skipped a damaged line at the end")
        self._torn.clear()

    def size(self) -> int:
        """How many bytes there are, read or not."""
        entries = self.store.objects.entries(f"{self.folder}/{EVENTS}/")
        return sum(entry.size for entry in entries)

    def _read(self, key: str, offset: int) -> bytes:
        if not self.store.shared:
            return (self.store.objects.read(key) or b"")[offset:]
        with suppress(FileNotFoundError), (self.store.root / key).open("rb") as file:
            file.seek(offset)
            return file.read()
        return b""


def _parse(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        event = json.loads(line)
        if isinstance(event, dict) and isinstance(event.get("time"), int | float):
            return event
    return None
