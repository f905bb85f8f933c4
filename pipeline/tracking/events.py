"""What happened, as JSON lines in the store: what MLflow shows of a run follows from it.

    runs/<run>/events/<writer>-0000.jsonl                        the driver: jobs, how they ended
    <stage>/<fingerprint>/<attempt>/events/<writer>-0000.jsonl   points of curves

Each process that writes has files of its own, so no line waits for another, and only the last one
of a killed process can be torn. A line has a checksum. In a bucket the lines are collected for
PERIOD, and go to an object that is written again until it has PIECE bytes; then the next number
begins.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from gpt1.errors import UserError
from pipeline.execution.observer import Status
from pipeline.store.base import EVENTS, Store

PERIOD = 3.0  # seconds between two writes to a bucket
PIECE = 256 << 10  # bytes


class Event(BaseModel):
    """One line. Times are seconds since 1970."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    time: FiniteFloat = Field(default_factory=time.time)


class Point(Event):
    """A point of one or more curves."""

    event: Literal["point"] = "point"
    step: int
    values: dict[str, float]


class RunStarted(Event):
    """The first event of a run of the workflow."""

    event: Literal["start"] = "start"
    name: str
    profile: str
    """Or the workflow's name, where there is none."""
    assignments: tuple[str, ...] = ()
    """Those of `--set`."""
    tags: dict[str, str]
    params: dict[str, Any]


class JobFacts(Event):
    """What MLflow needs to know of a job beside its record."""

    cell: str
    stage: str
    fingerprint: str
    withdrawn: int
    """How many records of the artifact were withdrawn before."""
    group: str | None
    """The entry of the workflow whose matrix the job is of."""
    axes: dict[str, Any]
    is_last: bool
    """Whether its figures are those of the run: nothing needs it."""
    tokens_per_step: int
    """Of a pre-training; else 0."""

    @property
    def folder(self) -> str:
        """Of its artifact, in the store."""
        return f"{self.stage}/{self.fingerprint}"

    @property
    def uid(self) -> str:
        """The same for every attempt; another once the artifact has been withdrawn."""
        withdrawn = f"-{self.withdrawn}" if self.withdrawn else ""
        return f"{self.stage}-{self.fingerprint}{withdrawn}"


class JobStarted(JobFacts):
    """A job is handed to the cluster; there is nothing in its attempt before this is written."""

    event: Literal["job"] = "job"
    attempt: str
    params: dict[str, Any]
    tags: dict[str, str]


class JobCached(JobFacts):
    """A job is up to date. `run`: the run of the workflow that made it."""

    event: Literal["cached"] = "cached"
    run: str


class JobEnded(Event):
    """A job has ended; where it has published, its record tells the rest."""

    event: Literal["job_end"] = "job_end"
    cell: str
    status: Status
    error: str = ""


class RunEnded(Event):
    """The last event of a run. `skipped`: jobs that need one that failed."""

    event: Literal["end"] = "end"
    status: Status
    skipped: list[str] = []


_Any = Point | RunStarted | JobStarted | JobCached | JobEnded | RunEnded
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[_Any, Field(discriminator="event")])


class EventLog:
    """Appends events below a folder of the store. Picklable: every process gets files of its own.

    Writing never raises, and in a bucket never waits: lines that cannot be written (a full disk)
    are kept, and written as soon as it works. `info` gets a line when that begins, and when lines
    are lost in the end.
    """

    def __init__(
        self, store: Store, folder: str, info: Callable[[str], None] = lambda _: None
    ) -> None:
        self._store, self._folder, self._info = store, folder, info
        self._writer = f"{time.time_ns()}-{secrets.token_hex(3)}"
        self._list, self._output = threading.Lock(), threading.Lock()
        self._waiting: list[bytes] = []
        self._piece, self._uploaded = 0, b""
        self._file: int | None = None
        self._trouble = ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store, self._folder)

    def write(self, event: Event) -> None:
        """Append one event."""
        with self._list:
            self._waiting.append(_to_line(event))
            if not self._store.shared and self._thread is None:
                self._thread = threading.Thread(target=self._flush_on, name="events", daemon=True)
                self._thread.start()
        if self._store.shared:
            self.flush()

    def flush(self) -> None:
        """Write what waits, if it can be written; in a bucket that is away, for 15 minutes."""
        with self._output:
            with self._list:
                lines, self._waiting = self._waiting, []
            if lines and not self._send(b"".join(lines)):
                with self._list:
                    self._waiting = lines + self._waiting

    def close(self) -> None:
        """Write what waits, as `flush`; nothing comes after."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        if self._waiting:
            self._info(f"{len(self._waiting)} events were lost ({self._trouble})")
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _flush_on(self) -> None:
        while not self._over.wait(PERIOD):
            self.flush()

    def _send(self, data: bytes) -> bool:
        try:
            self._append(data) if self._store.shared else self._upload(data)
        except (OSError, UserError) as error:
            why = (isinstance(error, OSError) and error.strerror) or str(error)
            if not self._trouble:
                self._info(f"events cannot be written ({why}); they wait in memory")
            self._trouble = why
            return False
        self._trouble = ""
        return True

    def _append(self, data: bytes) -> None:
        if self._file is None:
            path = self._store.root / self._key()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        before = os.fstat(self._file).st_size
        if os.write(self._file, data) < len(data):  # the disk's last bytes
            os.ftruncate(self._file, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _upload(self, data: bytes) -> None:
        if len(self._uploaded) > PIECE:
            self._piece, self._uploaded = self._piece + 1, b""
        self._store.objects.write(self._key(), self._uploaded + data)
        self._uploaded += data

    def _key(self) -> str:
        return f"{self._folder}/{EVENTS}/{self._writer}-{self._piece:04d}.jsonl"


class Logged(NamedTuple):
    """An event, and the process that wrote it."""

    writer: str
    event: Event


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
                event = _from_line(line)
                if event is None:
                    self.info(f"{entry.key}: skipped a damaged line")
                else:
                    self.last = max(self.last, event.time)
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


_CHECK = b',"crc32":"'


def _to_line(event: Event) -> bytes:
    """As JSON, with a checksum of what is before it as the last key."""
    body = event.model_dump_json().encode()[:-1]
    return body + _CHECK + b'%08x"}\n' % zlib.crc32(body)


def _from_line(line: bytes) -> Event | None:
    """The inverse; None for a line that is not as it was written."""
    body, _, check = line.rpartition(_CHECK)
    if check != b'%08x"}' % zlib.crc32(body):
        return None
    try:
        return _EVENT.validate_json(body + b"}")
    except ValidationError:  # of another version
        return None
