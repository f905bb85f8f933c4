"""Exports a store while a run lasts, in a thread; or all of it at once (`gpt1 track sync`)."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gpt1.errors import UserError
from pipeline.store.base import Store
from pipeline.store.lease import HeldError, Leases
from pipeline.tracking.exporter import Exporter, NotAlone, brief
from pipeline.tracking.mlflow_server import MlflowServer, default_uri, is_damage

LOOK, LOOK_REMOTE = 1.0, 3.0  # seconds between two looks at a store: a bucket is asked by requests
PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries to reach a server
CLOSING = 30.0  # seconds that a run waits for the server in the end
PATIENCE = 30.0  # seconds without progress after which `sync` gives up
WITNESS = 75.0  # seconds: after EXPIRY a driver on another host has shown whether it lives
OTHER = "another gpt1 process is filling MLflow from this store"
PERHAPS = "a gpt1 process of another host may be filling MLflow from this store"


class LiveExport:
    """Exports in a thread: all of a store, one run first where it is named.

    `info` gets a line when the server takes nothing, and when it does again.
    """

    def __init__(
        self, store: Store, run: str | None, info: Callable[[str], None], uri: str | None = None
    ) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(store.root)
        self.trouble = ""
        """Why nothing is being sent; empty when all is well."""
        self.missing: dict[str, bool] | None = None
        """Runs that the server does not have completely, and whether their drivers live; None: not
        known yet.
        """
        self._store, self._run, self._info = store, run, info
        # Its own: a driver that waits for leases must not wait for MLflow's, nor the reverse.
        self._leases = Leases(store, run or "export", info)
        self._server: MlflowServer | None = None
        self._exporter: Exporter | None = None
        self._lease = f"exports/{hashlib.sha256(self.uri.encode()).hexdigest()[:12]}"
        self._wake, self._closing = threading.Event(), threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def runs_sent(self) -> int:
        """Runs that the server has completely now, and had not."""
        return self._exporter.runs_sent if self._exporter else 0

    @property
    def progress(self) -> int:
        """Grows with all that is sent."""
        return self._exporter.progress if self._exporter else 0

    @property
    def is_done(self) -> bool:
        """Whether the server has the run; without one, all runs whose drivers have ended."""
        if self.missing is None:
            return False
        return self._run not in self.missing if self._run else all(self.missing.values())

    def close(self, wait: Callable[[], bool]) -> str:
        """End when the server has all, or `wait` says no; why it has not all."""
        self._closing.set()
        self._wake.set()
        while self._thread.is_alive() and wait():
            self._thread.join(0.05)
        self._over = True
        self._wake.set()
        self._thread.join(2)  # a request that hangs is left behind: it is a daemon
        return "" if self.is_done else self.trouble or "it takes longer"

    def _is_over(self) -> bool:
        return self._over or (self._closing.is_set() and self.is_done)

    def _work(self) -> None:
        pause = PAUSE
        while not self._is_over():
            try:
                self._export_until_over()
            except (HeldError, NotAlone) as error:
                self._leases.release()
                self._ask_other(str(error) if error.args == (PERHAPS,) else OTHER)
            except Exception as error:  # whatever it is must not end the thread: it is tried again
                self._set_trouble(error)
            if not self._is_over():
                self._wake.clear()
                self._wake.wait(PAUSE if self._closing.is_set() else pause)
                pause = min(2 * pause, LONGEST_PAUSE) if self.trouble else PAUSE
        with suppress(OSError, UserError):
            self._leases.release()

    def _export_until_over(self) -> None:
        is_held = self._leases.is_held(self._lease)
        if is_held is not False and not self._leases.is_ours(self._lease):
            # Not by `take`, which would wait, and others with it.
            raise NotAlone(OTHER if is_held else PERHAPS)
        self._leases.take([self._lease])
        exporter = self._get_exporter()
        while True:
            closing = self._closing.is_set()  # before the look: what was written is sent
            self.missing = exporter.export()
            if self.trouble not in ("", OTHER, PERHAPS):
                self._info("MLflow answers again")
            self.trouble = ""
            if closing and self._is_over():
                return
            self._wake.clear()
            wait = LOOK if self._store.shared else LOOK_REMOTE
            self._wake.wait(0.1 if closing and self._store.shared else wait)

    def _get_exporter(self) -> Exporter:
        """Made in the thread: the store may be slow."""
        if self._exporter is None:
            self._server = MlflowServer(self._store, self.uri, self._info)
            given = (self._store, self._server, self._leases, self._check_lease, self._info)
            self._exporter = Exporter(*given, self._run)
        return self._exporter

    def _check_lease(self) -> None:
        if self._over or not self._leases.is_ours(self._lease):
            raise NotAlone

    def _ask_other(self, trouble: str) -> None:
        """Another process exports this store; it may have sent this run meanwhile."""
        if self._over:
            return
        self.trouble = trouble
        if self._closing.is_set():
            try:
                if self._run in self._get_exporter().find_complete():
                    self.missing = {}
            except Exception as error:
                self._set_trouble(error)

    def _set_trouble(self, error: Exception) -> None:
        with suppress(Exception):  # a data base that cannot be renamed now is tried again
            if is_damage(error) and self._server and self._server.set_aside_damaged():
                return
        reason = brief(error)
        user = urlsplit(self.uri).netloc.rpartition("@")[0]
        reason = reason.replace(f"{user}@", "") if user else reason
        if self.trouble in ("", OTHER, PERHAPS):
            what = reason if isinstance(error, UserError) else f"MLflow does not answer ({reason})"
            self._info(f"{what}; nothing waits for it, and it gets later what it lacks")
        self.trouble = reason


@dataclass(frozen=True)
class Synced:
    """What `sync` did: runs that were sent, runs of which the server lacks something (None: not
    known), and why; empty where it has all.
    """

    sent: int
    missing: int | None
    trouble: str


def sync(
    store: Path | Store, uri: str | None = None, patience: float = PATIENCE,
    info: Callable[[str], None] = lambda _: None, witness: float = WITNESS,
) -> Synced:
    """Send all that the server lacks of a store. Ends after `patience` seconds without progress;
    where nothing is missing but runs whose drivers, on other hosts, may live, after `witness`.
    """
    export = LiveExport(store if isinstance(store, Store) else Store.at(store), None, info, uri)
    began = moved = time.monotonic()
    progress = -1

    def wait() -> bool:
        nonlocal progress, moved
        if export.progress != progress:
            progress, moved = export.progress, time.monotonic()
        if export.trouble == OTHER:
            return False
        if export.trouble == PERHAPS or (export.missing and not export.trouble):
            return time.monotonic() < began + witness
        return time.monotonic() < moved + patience

    export.start()
    trouble = export.close(wait)
    alive = None if export.missing is None else sum(not one for one in export.missing.values())
    return Synced(export.runs_sent, alive, trouble)
