"""A host of a world: its own name, address, network and folder; of the others it sees nothing."""

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
# Everything below the common folder is covered; of it only the host's own appears again.
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

    def __init__(
        self, world: World, name: str, address: str, common: Path, environment: Mapping[str, str]
    ) -> None:
        self.name, self.address, self.folder = name, address, common / name
        for part in ("home", "tmp", "cache"):
            (self.folder / part).mkdir(parents=True)
        own = {"HOME": "home", "TMPDIR": "tmp", "RAY_TMPDIR": "", "GPT1_CACHE": "cache"}
        self.environment = {
            **os.environ, **{key: str(self.folder / part) for key, part in own.items()},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "disabled", "HOSTNAME": name, **environment,
        }  # fmt: skip
        script = SET_UP.format(name=name, folder=self.folder, common=common)
        spaces = ("--net", "--mount", "--uts", "--propagation", "private", "--mount-proc")
        self._outer, self.holder = world.start(name, "unshare", *spaces, "sh", "-c", script)
        self._machine: tuple[subprocess.Popen[bytes], int] | None = None

    def words(self, *command: str | Path) -> list[str]:
        """The command line that runs `command` on this host, as the child of nsenter."""
        return ["nsenter", f"--target={self.holder}", *SPACES, "--", *map(str, command)]

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program on this host and wait."""
        return subprocess.run(
            self.words(*command), cwd=self.folder, capture_output=True, text=True, timeout=600,
            env=self.environment,
        )  # fmt: skip

    def start(self, log: Path, *command: str | Path, **more: str) -> subprocess.Popen[bytes]:
        """Start a program on this host; `child_of` gives the pid to send signals to."""
        words, env = self.words(*command), {**self.environment, **more}
        with log.open("ab") as out:
            return subprocess.Popen(words, cwd=self.folder, stdout=out, stderr=out, env=env)

    def switch_on(self, log: Path, *command: str | Path, **more: str) -> None:
        """Start `command` as the host's first process, of which all others are children."""
        assert self._machine is None
        unshare = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
        process = self.start(log, *unshare, *command, **more)
        self._machine = (process, child_of(process))

    def power_off(self) -> None:
        """All that `switch_on` has led to ends at once, as when power fails. The disk stays."""
        if self._machine is None:
            return
        process, outer = self._machine
        self._machine = None
        # The first process itself: the unshare that waits for it ends when all others have.
        for first in psutil.Process(outer).children() if process.poll() is None else []:
            first.kill()
        process.wait(timeout=60)

    @contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread opens in the block are of this host's network."""
        library = ctypes.CDLL(None, use_errno=True)
        theirs = Path(f"/proc/{self.holder}/ns/net")
        with Path("/proc/thread-self/ns/net").open() as ours, theirs.open() as there:
            if library.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns to {self.name}")
            try:
                yield
            finally:
                library.setns(ours.fileno(), CLONE_NEWNET)
