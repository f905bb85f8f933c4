"""Leases: a word to others that an artifact is being made. They only save doubled work; correctness rests on publishing."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from pipeline.files import create_once, read_json, replace

HEARTBEAT = 5.0  # seconds
EXPIRY = 60.0  # seconds without a heartbeat after which the holder counts as gone


class HeldError(Exception):
    """Another run holds what this one wants; the command ends with exit status 3."""


class Leases:
    """The leases of one run: taken together, kept alive by one thread, given back together."""

    def __init__(self, run: str) -> None:
        me = psutil.Process()
        self._word = {
            "run": run, "host": socket.gethostname(), "pid": me.pid, "started": me.create_time(), "token": secrets.token_hex(8),
        }  # fmt: skip
        self._held: list[Path] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, folders: Sequence[Path]) -> None:
        """Take a lease on every folder, or none and raise HeldError."""
        for folder in folders:
            path = folder / "lease.json"
            if not self._take_one(path):
                holder = read_json(path) or {}
                self.release()
                raise HeldError(
                    f"{folder.parent.name} is being made by run {holder.get('run')} (process {holder.get('pid')} on "
                    f"{holder.get('host')}, last heard of {time.time() - holder.get('beat', 0):.0f} s ago); wait for it to end, "
                    "stop it, or use another --store"
                )
            self._held.append(path)
        if self._held and self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def release(self) -> None:
        """Give all leases back."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        for path in self._held:
            if (read_json(path) or {}).get("token") == self._word["token"]:
                path.unlink(missing_ok=True)
        self._held.clear()

    def _take_one(self, path: Path) -> bool:
        for _ in range(3):
            if create_once(path, {**self._word, "beat": time.time()}):
                return True
            holder = read_json(path)
            if holder is not None and alive(holder):
                return False
            path.unlink(missing_ok=True)
        return False

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            for path in self._held:
                if (read_json(path) or {}).get("token") == self._word["token"]:
                    replace(path, {**self._word, "beat": time.time()})


def alive(holder: dict[str, Any]) -> bool:
    """Whether the holder of a lease still lives: on this machine its process is looked up, elsewhere its heartbeat decides."""
    if holder.get("host") == socket.gethostname() and holder.get("pid"):
        try:
            return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1
        except (psutil.NoSuchProcess, KeyError):
            return False
    return time.time() - float(holder.get("beat", 0)) < EXPIRY
