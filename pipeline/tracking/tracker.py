"""What the driver calls to record runs in MLflow: every call only appends to the outbox; a
thread sends in the background.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time as clock
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from gpt1.errors import UserError
from gpt1.paths import FILE, path_of_uri
from gpt1.wording import span
from pipeline.store.base import Store
from pipeline.store.s3 import S3Objects
from pipeline.tracking.mlflow_server import default_uri
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.outbox_mirror import OutboxMirror
from pipeline.tracking.recorder import Recorder, brief, locked

UPLOAD_LIMIT = 10_000_000  # bytes; larger files are recorded by reference
LONGEST_NAME, LONGEST_PARAM, LONGEST_TAG, LONGEST_DIGEST = (
    250, 6000, 8000, 36,
)  # MLflow's limits, in characters
CHUNK = 500  # entries sent between two acknowledgements
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries to reach a server
PACE = (
    3.0  # seconds between two looks for lines that must first be in a remote store: a request each
)
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """The runs of one driver.

    Runs are known by `uid`, a string of the caller's; times are seconds since 1970 (None: now).

    Methods that record may be called from any thread, take microseconds and raise nothing but
    OSError (disk full). The server is `uri`, else MLFLOW_TRACKING_URI, else SQLite in the store.
    `info` gets one line when the server takes no records, and the like.
    """

    def __init__(
        self, store: Path | Store, uri: str | None = None, info: Callable[[str], None] | None = None
    ) -> None:
        store = store if isinstance(store, Store) else Store.at(store)
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(store.root)
        self._root = store.root
        self.trouble: str | None = None
        """Why nothing is being sent; None when all is well."""
        self._away = "MLflow"
        self._say = info or (lambda _: None)
        objects = store.objects
        self._mirror = (
            OutboxMirror(objects, store.root / "outbox") if isinstance(objects, S3Objects) else None
        )
        if self._mirror:
            self._mirror.pull()
        self._outbox = Outbox(store.root / "outbox")
        self._recorder = Recorder(store, self.uri, self._outbox, self._say)
        self._wake, self._urge = threading.Event(), threading.Event()
        self._odd: set[tuple[str, str]] = set()
        self._stop = False
        self._thread: threading.Thread | None = None

    def start(
        self, uid: str, name: str, parent_uid: str | None = None,
        tags: Mapping[str, Any] | None = None, time: float | None = None,
    ) -> None:
        """A run begins, or goes on: one with this uid is opened again, under the new parent, and
        its curves continue.
        """
        self._append(
            "start", uid, time=_ms(time), name=name, parent=parent_uid,
            tags=_texts(tags or {}, LONGEST_TAG),
        )

    def params(self, uid: str, values: Mapping[str, Any]) -> None:
        """Settings of a run.

        One that is there with another value stays as it is, and that is said.
        """
        self._append("params", uid, values=_texts(values, LONGEST_PARAM))

    def metrics(
        self, uid: str, step: int, values: Mapping[str, float], time: float | None = None
    ) -> None:
        """Points of curves; those not beyond the curve's end are dropped.

        An infinity is drawn as NaN; a tag tells the first.
        """
        numbers = {_name(name): float(value) for name, value in values.items()}
        odd = {name: value for name, value in numbers.items() if not math.isfinite(value)}
        finite: dict[str, float | str] = {
            name: "nan" if name in odd else value for name, value in numbers.items()
        }
        self._append("metrics", uid, time=_ms(time), step=step, values=finite)
        new = {
            f"gpt1.not_finite.{name}": f"{value} at step {step}"
            for name, value in odd.items()
            if (uid, name) not in self._odd
        }
        if new:
            self._odd.update((uid, name) for name in odd)
            self.tags(uid, new)

    def artifact(
        self, uid: str, file: Path | str, folder: str = "", size: int | None = None
    ) -> None:
        """A file to show in the run: uploaded up to UPLOAD_LIMIT, else by reference.

        It must stay as it is until it is sent.

        `file`: a path, or the address of a file of the store and its `size` in bytes; that one is
        fetched when it is sent.
        """
        size = file.stat().st_size if isinstance(file, Path) else size or 0
        path = self._path(file)
        if size <= UPLOAD_LIMIT:
            self._append("artifact", uid, path=path, folder=folder)
            return
        address = file.absolute().as_uri() if isinstance(file, Path) else file
        self.document(
            uid, f"{folder}/{path.rpartition('/')[2]}.reference.json".lstrip("/"),
            {"uri": address, "size": size},
        )

    def document(self, uid: str, name: str, content: Any) -> None:
        """A JSON file of the run, called `name`."""
        self._append("reference", uid, name=name, content=content)

    def references(self, uid: str, files: Sequence[Mapping[str, Any]]) -> None:
        """All files of an artifact, as mappings of name, uri, size (bytes) and sha256:
        `artifacts.json` in the run, and tags.
        """
        self.document(uid, "artifacts.json", [dict(file) for file in files])
        self.tags(
            uid,
            {
                "gpt1.artifacts": len(files),
                "gpt1.artifacts.bytes": sum(file["size"] for file in files),
            },
        )

    def model(
        self, uid: str, name: str, folder: Path | str, fingerprint: str, aliases: Sequence[str] = ()
    ) -> None:
        """An exported model (a folder, or its address) to enter in the registry under `name`, once
        for each fingerprint.

        `aliases` point to it from then on. It must stay as it is until it is sent.
        """
        name = re.sub("[/:]", "_", _name(name))  # of models MLflow refuses these two
        self._append(
            "model", uid, name=name, path=self._path(folder), fingerprint=fingerprint,
            aliases=list(aliases),
        )

    def dataset(self, uid: str, name: str, digest: str, source: str, context: str) -> None:
        """A data set the run used; `source` a URI.

        MLflow keeps the first 36 characters of the digest.
        """
        self._append(
            "dataset", uid, name=name[:500], digest=digest[:LONGEST_DIGEST], source=source,
            context=context,
        )

    def tags(self, uid: str, values: Mapping[str, Any]) -> None:
        """Tags of a run; the last value counts."""
        self._append("tags", uid, values=_texts(values, LONGEST_TAG))

    def end(self, uid: str, status: Status, time: float | None = None) -> None:
        """A run is over."""
        self._append("end", uid, time=_ms(time), status=status)

    def close_left_open(self, keep: Collection[str] = ()) -> list[str]:
        """End, as KILLED at the time of their last sign of life, the runs that killed drivers
        left open; not those in `keep`.
        """
        left = [uid for uid in self._outbox.left_open() if uid not in keep]
        for uid in left:
            self._append("end", uid, time=self._outbox.runs[uid].last, status="KILLED")
        return left

    def run_id(self, uid: str, timeout: float = 0.0) -> str | None:
        """MLflow's id of a run, awaited for at most `timeout` seconds; None when it is not known
        by then.
        """
        self._awake()
        deadline = clock.monotonic() + timeout
        while uid not in self._recorder.ids and clock.monotonic() < deadline:
            clock.sleep(0.02)
        return self._recorder.ids.get(uid)

    def flush(self, timeout: float = 30.0) -> int:
        """Wait until everything is with the server, for at most `timeout` seconds; how many
        entries are left.
        """
        deadline = clock.monotonic() + timeout
        while (left := self._outbox.left()) and clock.monotonic() < deadline:
            self._awake()
            self._urge.set()
            clock.sleep(0.05)
        return left

    def close(self, timeout: float = 30.0) -> int:
        """Flush, and end.

        What is left stays in the store for the next run or `gpt1 track sync`; how many entries that
        is.
        """
        left = self.flush(timeout)
        self._stop = True
        self._urge.set()
        self._wake.set()
        self._outbox.close()
        if self._thread is not None:
            self._thread.join(
                timeout=2 if left else 20
            )  # a request that hangs is left behind; the thread is a daemon
        if self._mirror:
            self._mirror.stop()
        return left

    def _path(self, place: Path | str) -> str:
        """How the outbox names a file or folder: relative to the store where it is in it, so
        that a store can be moved.
        """
        if isinstance(place, str) and not place.startswith(FILE):
            return place
        path = place.absolute() if isinstance(place, Path) else path_of_uri(place)
        return str(path.relative_to(self._root) if path.is_relative_to(self._root) else path)

    def _append(self, do: str, uid: str, **rest: Any) -> None:
        if self._outbox.append({"do": do, "uid": uid, **rest}):
            self._awake(now=self._mirror is None)

    def _awake(self, now: bool = True) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
            self._thread.start()
            if self._mirror:
                self._mirror.start(self._outbox.session)
        if now:
            self._wake.set()

    def _work(self) -> None:
        pause = PAUSE
        while not self._stop:
            try:
                with locked(self._outbox.folder / "sender.lock", wait=False):
                    self._outbox.compact()
                    self._send_until_stopped()
                    self._outbox.close()
                    self._outbox.compact()
            except BlockingIOError:
                self.trouble = "another gpt1 process is sending this store's records"
            except Exception as error:
                # Whatever it is must not end the thread: what is not acknowledged is tried again,
                # for as long as it takes.
                self._outbox.sync()
                self._in_trouble(error)
            self._urge.clear()
            self._urge.wait(0 if self._stop else pause)
            pause = min(2 * pause, LONGEST_PAUSE) if self.trouble else PAUSE

    def _send_until_stopped(self) -> None:
        while not self._stop:
            self._wake.clear()
            self._outbox.sync()
            for session in self._outbox.sessions():
                while not self._stop:
                    offset = self._outbox.acknowledged(session)
                    until = self._mirror.secure(session) if self._mirror else math.inf
                    entries, end = self._outbox.read(session, CHUNK, until)
                    if end == offset:
                        break
                    self._recorder.apply(self._outbox.due(session, entries))
                    self._outbox.ack(session, end)
                    if self.trouble:
                        self._say(f"{self._away} answers again")
                        self.trouble = None
            self._wake.wait(PACE if self._mirror else 1.0)

    def _in_trouble(self, error: Exception) -> None:
        reason = brief(error)
        user = urlsplit(self.uri).netloc.rpartition("@")[0]
        reason = reason.replace(f"{user}@", "") if user else reason
        if self.trouble is None:
            self._away = (
                "the store" if isinstance(error, UserError) else "MLflow"
            )  # lines go to a remote store first
            self._say(
                f"{self._away} does not answer ({reason}); records wait in {self._outbox.folder}"
            )
        self.trouble = reason


@dataclass(frozen=True)
class Synced:
    """What `track sync` did: entries sent, entries left, runs of killed drivers that were
    closed, and why something is left.
    """

    sent: int
    left: int
    closed: int
    trouble: str | None


def sync(
    store: Path | Store, uri: str | None = None, timeout: float = 60.0,
    info: Callable[[str], None] | None = None,
) -> Synced:
    """Send what waits in the outbox of a store, for at most `timeout` seconds; `info` as of a
    Tracker.
    """
    tracker = Tracker(store, uri, info)
    closed = tracker.close_left_open()
    waiting = tracker._outbox.left()
    left = tracker.close(timeout) if waiting else 0
    return Synced(
        waiting - left, left, len(closed),
        (tracker.trouble or f"not done within {span(timeout)}") if left else None,
    )


def _ms(seconds: float | None) -> int:
    return round(1000 * (clock.time() if seconds is None else seconds))


def _name(text: str) -> str:
    """A name MLflow accepts: letters, digits and `_-. :/`."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:LONGEST_NAME]


def _texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    cut = {_name(key): str(value)[: longest + 1] for key, value in values.items()}
    return {
        key: text if len(text) <= longest else text[: longest - 3] + "..."
        for key, text in cut.items()
    }
