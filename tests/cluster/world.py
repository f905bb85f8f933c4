"""A world: processes that the kernel ends together, whatever happens to their maker.

All are in one PID namespace, whose first process reads from a pipe that only we hold. When we close
it, or are killed, that process ends, and with it every other one, their network namespaces, links
and mounts. Nothing has a name outside, so several worlds may exist at once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import psutil

NEEDED = ("ip", "tc", "unshare", "nsenter", "mount")


def why_not() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: apt install iproute2 util-linux)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    words = ["unshare", "--net", "ip", "link", "add", "gpt1", "type", "bridge"]
    tried = subprocess.run(words, capture_output=True, text=True)
    failed = f"network namespaces cannot be made: {tried.stderr.strip()}"
    return failed if tried.returncode else None


def child_of(process: subprocess.Popen[bytes]) -> int:
    """The one child of a program that forks and waits (nsenter, unshare): its pid as we see it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if children := psutil.Process(process.pid).children():
            return int(children[0].pid)
        time.sleep(0.01)
    raise AssertionError(f"{process.args} has not started its command (status {process.poll()})")


class World:
    """Use as a context manager."""

    def __enter__(self) -> World:
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "cat"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        self._outer = subprocess.Popen(command, **pipes)
        self._first = child_of(self._outer)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._outer.stdin
        self._outer.stdin.close()
        for child in psutil.Process().children():
            if child.status() == psutil.STATUS_STOPPED:  # an nsenter of what was paused
                child.resume()
        self._outer.wait(timeout=120)

    def start(self, what: str, *command: str) -> tuple[subprocess.Popen[bytes], int]:
        """Start a program in here that says `ready` and stays: its parent outside, its own pid."""
        words = ["nsenter", f"--target={self._first}", "--pid", *command]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout
        assert process.stdout.readline() == b"ready\n", f"{what} cannot be set up"
        return process, child_of(process)
