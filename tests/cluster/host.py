"""A host of a world: its own name, address, network and folder; it sees neither the others' folders nor this machine's network."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.cluster.world import World, child_of
from tests.conftest import ROOT

SPACES = ("--net", "--mount", "--uts", "--pid")
CLONE_NEWNET = 0x40000000
# Everything below the common folder is covered; of it only the host's own appears again. So no host sees another's disk.
SET_UP = """
set -e
hostname {name}
mount --bind {folder} /mnt
mount -t tmpfs none {common}
mkdir -p {folder}
mount --move /mnt {folder}
mount -t tmpfs -o size=2g none /dev/shm
ip link set lo up
echo ready
exec sleep infinity
"""


class Host:
    """`folder` is its disk. `environment` is what every program on it is started with."""

    def __init__(self, world: World, name: str, address: str, common: Path, environment: Mapping[str, str]) -> None:
        self.name, self.address, self.folder = name, address, common / name
        for part in ("home", "tmp", "cache"):
            (self.folder / part).mkdir(parents=True)
        own = {"HOME": "home", "TMPDIR": "tmp", "RAY_TMPDIR": "", "GPT1_CACHE": "cache"}
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {
            **os.environ, **{key: str(self.folder / part) for key, part in own.items()}, "PATH": programs, "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "disabled", "HOSTNAME": name, **environment,
        }  # fmt: skip
        script = SET_UP.format(name=name, folder=self.folder, common=common)
        holder = ("unshare", "--net", "--mount", "--uts", "--propagation", "private", "--mount-proc", "sh", "-c", script)
        self._outer, self.holder = world.start(*holder)
        assert self._outer.stdout
        assert self._outer.stdout.readline() == b"ready\n", f"{name} cannot be set up"
        self._machine: tuple[subprocess.Popen[bytes], int] | None = None

    def words(self, *command: str | Path) -> list[str]:
        """The command line that runs `command` on this host. The program is the child of nsenter."""
        return ["nsenter", f"--target={self.holder}", *SPACES, "--", *map(str, command)]

    def run(self, *command: str | Path, timeout: float = 600, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program on this host and wait."""
        words, variables = self.words(*command), {**self.environment, **more}
        return subprocess.run(words, cwd=self.folder, capture_output=True, text=True, timeout=timeout, env=variables)

    def start(self, log: Path, *command: str | Path, **more: str) -> subprocess.Popen[bytes]:
        """Start a program on this host; the log lies outside of it. `real_pid` gives the number to send signals to."""
        with log.open("ab") as out:
            words, variables = self.words(*command), {**self.environment, **more}
            return subprocess.Popen(words, cwd=self.folder, stdout=out, stderr=subprocess.STDOUT, env=variables)

    def switch_on(self, log: Path, *command: str | Path, **more: str) -> None:
        """Start `command` as the first process of the host, of which all others are children: what `power_off` ends."""
        assert self._machine is None
        process = self.start(log, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *command, **more)
        self._machine = (process, child_of(process))

    def power_off(self) -> None:
        """Every process that `switch_on` has led to ends at once, as when the power fails. The disk stays."""
        if self._machine is None:
            return
        process, outer = self._machine
        self._machine = None
        # The first process itself, not the unshare that waits for it: that one ends when all the others have.
        for first in psutil.Process(outer).children() if process.poll() is None else []:
            first.kill()
        process.wait(timeout=60)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread (and threads that it starts) opens in the block are of this host's network."""
        library = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/thread-self/ns/net").open() as ours, Path(f"/proc/{self.holder}/ns/net").open() as theirs:
            if library.setns(theirs.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns to {self.name}")
            try:
                yield
            finally:
                library.setns(ours.fileno(), CLONE_NEWNET)


def real_pid(process: subprocess.Popen[bytes]) -> int:
    """The program that `Host.start` has started: the child of nsenter."""
    return child_of(process)
