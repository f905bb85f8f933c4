"""A world: processes that the kernel ends together, whatever happens to who made them.

All lie in one PID namespace, whose first process reads from a pipe that only we hold. When we close it, or are killed, that process
ends, and with it every other one, their network namespaces, links and mounts. Nothing carries a name outside, so several worlds
may exist at once and none can leave anything behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from types import TracebackType

import psutil

NEEDED = ("ip", "tc", "unshare", "nsenter", "mount")


def why_not() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt install iproute2 util-linux)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    tried = subprocess.run(["unshare", "--net", "ip", "link", "add", "gpt1", "type", "bridge"], capture_output=True, text=True)
    return f"network namespaces cannot be made: {tried.stderr.strip()}" if tried.returncode else None


def child_of(process: subprocess.Popen[bytes]) -> int:
    """The one child of a program that forks and waits (nsenter, unshare); its number as we see it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        children = psutil.Process(process.pid).children() if process.poll() is None else []
        if children:
            return int(children[0].pid)
        time.sleep(0.01)
    raise AssertionError(f"{process.args} has not started its command (status {process.poll()})")


class World:
    """Use as a context manager."""

    def __enter__(self) -> World:
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "cat"]
        self._outer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._first = child_of(self._outer)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._outer.stdin
        self._outer.stdin.close()
        for child in psutil.Process().children():
            if child.status() == psutil.STATUS_STOPPED:  # an nsenter of what was paused: it must go on to see that end
                child.resume()
        self._outer.wait(timeout=120)

    def start(self, *command: str) -> tuple[subprocess.Popen[bytes], int]:
        """Start a program in here that stays; its parent outside, and its own number as we see it."""
        process = subprocess.Popen(["nsenter", f"--target={self._first}", "--pid", *command], stdout=subprocess.PIPE)
        return process, child_of(process)
