"""Leases: a word to others that an artifact is being made.

They only save doubled work; correctness rests on publishing.
"""

from __future__ import annotations

import functools
import secrets
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from gpt1.errors import UserError
from gpt1.wording import span
from pipeline.store.words import Word

HEARTBEAT = 5.0  # seconds
EXPIRY = 60.0  # seconds without a heartbeat after which the holder counts as gone
AT_ONCE = 16  # leases taken or given back at one time: a store may be far


class HeldError(Exception):
    """Another run holds what this one wants; the command ends with exit status 3."""


class Leases:
    """The leases of one run: taken together, kept alive by one thread, given back together."""

    def __init__(self, run: str) -> None:
        me = psutil.Process()
        self._word = {
            "run": run, "host": socket.gethostname(), "pid": me.pid, "started": me.create_time(),
            "machine": machine(), "token": secrets.token_hex(8),
        }  # fmt: skip
        self._held: list[Word] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, words: Sequence[Word]) -> None:
        """Take a lease at each of these words of a store, or none and raise HeldError."""
        if (
            words and self._thread is None
        ):  # from the first on: taking many from a slow store must not outlast their expiry
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            taken = list(pool.map(self._take_one, words))
        self._held += [word for word, mine in zip(words, taken, strict=True) if mine]
        refused = next((word for word, mine in zip(words, taken, strict=True) if not mine), None)
        if refused is None:
            return
        holder = refused.read() or {}
        self.release()
        raise HeldError(
            f"{refused.about} is locked by run {holder.get('run')} (process {holder.get('pid')}"
            f" on {holder.get('host')}, last heartbeat"
            f" {span(time.time() - holder.get('beat', 0))} ago); wait for it to end, stop it, or"
            " use another --store"
        )

    def release(self) -> None:
        """Give all leases back."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._give_back, self._held))
        self._held.clear()

    def _give_back(self, word: Word) -> None:
        if (word.read() or {}).get("token") == self._word["token"]:
            word.remove()

    def _take_one(self, word: Word) -> bool:
        for _ in range(3):
            if word.create(self._now()):
                return True
            holder = word.read()
            if holder is None:
                continue
            if alive(holder):
                return False
            if word.seize(self._now()):
                return True
        return False

    def _now(self) -> dict[str, Any]:
        return {**self._word, "beat": time.time()}

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            for word in {word.pulse: word for word in self._held}.values():
                with suppress(
                    OSError, UserError
                ):  # a store out of reach: the next beat may find it
                    word.refresh(self._now())


def alive(holder: dict[str, Any]) -> bool:
    """Whether the holder of a lease still lives: on this machine its process is looked up,
    elsewhere its heartbeat decides.
    """
    here = (
        holder.get("host") == socket.gethostname() and holder.get("machine", machine()) == machine()
    )
    if here and holder.get("pid"):
        try:
            return abs(psutil.Process(holder["pid"]).create_time() - holder["started"]) < 1
        except (psutil.NoSuchProcess, KeyError):
            return False
    return time.time() - float(holder.get("beat", 0)) < EXPIRY


@functools.cache
def machine() -> str:
    """What tells this machine's processes from those of a machine, or a container, of the same
    name.
    """
    try:
        return (
            f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
            f" {Path('/proc/self/ns/pid').readlink()}"
        )
    except OSError:
        return ""
