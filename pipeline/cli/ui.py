"""`gpt1 ui`: MLflow's server on the data base of a store, for as long as the command runs."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

from gpt1.errors import UserError
from gpt1.terminal import show
from pipeline.store.base import Store
from pipeline.store.lease import RUNS
from pipeline.tracking.live_export import sync
from pipeline.tracking.mlflow_server import (
    DATA_BASE,
    DEFAULTS,
    EXPERIMENT,
    FILES,
    TRAINING,
    default_uri,
)

FILLING = 5.0  # seconds without progress after which the data base is shown as it is
STARTING = 120.0  # seconds the server may take to answer
ENDING = 5.0  # seconds it may take to end by itself


def serve(
    store: Store, host: str = "127.0.0.1", port: int = 5000,
    info: Callable[[str], None] | None = None,
) -> None:
    """Fill the data base from the store, and serve until SIGINT or SIGTERM; `info` (else standard
    output) gets the address once it answers.

    For the main thread.

    UserError: there is nothing to show, the port is in use, or the server does not come up (with
    the end of what it said).
    """
    folder, info = store.root, info or show
    if host != "localhost" and not host.startswith("127."):
        who = "anyone who reaches it can change and delete the runs"
        info(f"warning: MLflow has no password; at {host}:{port} {who}")
    if problem := why_not_free(host, port):
        advice = "choose a free port with --port"
        raise UserError(f"{host}:{port} cannot be used ({problem}); {advice}")
    if store.objects.folders(f"{RUNS}/") and os.access(folder, os.W_OK):
        synced = sync(store, default_uri(folder), FILLING, info, witness=0)
        if synced.trouble:
            info(f"MLflow lacks some of the runs: {synced.trouble}")
    if not (folder / DATA_BASE).is_file():
        advice = "run the workflow first, or choose another --store"
        raise UserError(f"{store.where}: no runs recorded; {advice}")
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", default_uri(folder),
        "--host", host, "--port", str(port), "--workers", "1", "--artifacts-destination",
        (folder / FILES).as_uri(),
    ]  # fmt: skip
    environment = {**DEFAULTS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt
    with tempfile.TemporaryFile() as log:
        # Its own process group: Ctrl-C reaches this process alone, which then ends all of the
        # server's.
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT,
            process_group=0,
        )
        guard = _guard(server.pid)
        try:
            _await_answer(host, port, server, log)
            address = f"http://{host}:{port}{_page(folder)}"
            info(f"MLflow shows {store.where} at {address} (Ctrl-C stops it)")
            server.wait()
            raise UserError(f"the MLflow server exited: {_tail(log)}")
        except KeyboardInterrupt:
            return
        finally:
            _end(server, guard)
            signal.signal(signal.SIGTERM, before)


def _page(store: Path) -> str:
    """The list of runs, in MLflow's pages for training (it opens those for language-model
    applications by itself).
    """
    query = "SELECT experiment_id FROM experiments WHERE name = ?"
    with closing(sqlite3.connect(store / DATA_BASE)) as base:
        found = base.execute(query, (EXPERIMENT,)).fetchone()
    return f"/#/experiments/{found[0]}/runs?{TRAINING}" if found else ""


def why_not_free(host: str, port: int) -> str:
    """Why no server can listen there; empty where one can."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            return str(error)
    return ""


def _guard(group: int) -> subprocess.Popen[bytes]:
    """Ends the server's process group when this process dies in whatever way: then the pipe to
    the guard closes.
    """
    return subprocess.Popen(
        ["/bin/sh", "-c", "read _; kill -TERM 0"], stdin=subprocess.PIPE, process_group=group
    )


def _await_answer(host: str, port: int, server: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '') else host}:{port}/health"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + STARTING
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), opener.open(address, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise UserError(f"the MLflow server does not answer at {host}:{port}: {_tail(log)}")


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"


def _end(server: subprocess.Popen[bytes], guard: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + ENDING
    with suppress(ProcessLookupError):  # the group is empty
        os.killpg(server.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            server.poll()
            guard.poll()
            os.killpg(server.pid, 0)
            time.sleep(0.05)
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    guard.wait()
