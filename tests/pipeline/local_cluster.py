"""The command line on a stand-in for the cluster, without Ray: each cell is a process.

`python -m tests.pipeline.local_cluster WORDS` is `gpt1 WORDS`, with the executor, leases, store,
signals and tracking as they are. With GPT1_SIGNALS, a JSON object of phase -> [[SIGNAL, seconds
to wait after it], ...], the driver gets these signals in these phases.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.execution.shutdown import unblock_for_children
from pipeline.execution.worker import Job, run_cell
from pipeline.tracking.events import EventLog, Point
from pipeline.workflow.expand import Cell

ME = "tests.pipeline.local_cluster"
SIGNALS = "GPT1_SIGNALS"


class LocalCluster:
    """Has `cluster.RayCluster`'s methods."""

    def __init__(self, *_: object) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gpt1-local-"))
        self._cells: list[subprocess.Popen[bytes]] = []
        self._read: dict[Path, int] = {}
        self._signals = json.loads(os.environ.get(SIGNALS, "{}"))
        self._reach("planned")

    def connect(self) -> str:
        self._reach("connect")
        return "processes of this machine"

    def check_capacity(self, cells: Iterable[Cell], sleep: Callable[[float], None]) -> None:
        sleep(0.01 * len(list(cells)))

    def check(self) -> None:
        pass

    def oom_kills(self) -> int:
        return 0

    def start(self, job: Job, _: Cell) -> subprocess.Popen[bytes]:
        place = self._folder / str(len(self._cells))
        place.with_suffix(".job").write_bytes(pickle.dumps(replace(job, cluster=False)))
        command = [sys.executable, "-m", ME, "cell", str(place)]
        with place.with_suffix(".err").open("wb") as err:
            self._cells.append(subprocess.Popen(command, stderr=err))
        self._reach("start")
        return self._cells[-1]

    def wait(
        self, handles: Sequence["subprocess.Popen[bytes]"], seconds: float
    ) -> list["subprocess.Popen[bytes]"]:
        deadline = time.monotonic() + seconds
        while True:
            ready = [handle for handle in handles if handle.poll() is not None]
            if ready or time.monotonic() > deadline:
                return ready
            time.sleep(0.01)

    def result(self, handle: "subprocess.Popen[bytes]") -> None:
        place = self._folder / str(self._cells.index(handle))
        if (error := place.with_suffix(".error")).exists():
            raise pickle.loads(error.read_bytes())
        assert handle.returncode == 0, place.with_suffix(".err").read_text()

    def cancel(self, handle: "subprocess.Popen[bytes]") -> None:
        handle.kill()

    def poll(self) -> list[Any]:
        from pipeline.execution.channel import ChannelMessage

        events = []
        for file in self._folder.glob("*.events"):
            lines = file.read_bytes()[self._read.get(file, 0) :].splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            self._read[file] = self._read.get(file, 0) + sum(map(len, whole))
            events += [ChannelMessage(*json.loads(line)) for line in whole]
        if any((event.cell, event.kind) == ("training", "progress") for event in events):
            self._reach("running")
        return events

    def ask_to_stop(self, cells: Iterable[str]) -> dict[str, float]:
        (self._folder / "stop").touch()
        polled = {file.read_text() for file in self._folder.glob("*.polled")}
        return {cell: 0.0 if cell in polled else float("inf") for cell in cells}

    def close(self) -> None:
        self._reach("close")
        for process in self._cells:
            process.kill()
            process.wait()
        shutil.rmtree(self._folder)

    def _reach(self, phase: str) -> None:
        for name, wait in self._signals.pop(phase, []):
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(wait)


class FileReporter:
    """Sends what a cell says to its `place`; points go to its attempt."""

    def __init__(self, job: Job, place: Path) -> None:
        self.cell, self.place = job.cell, place
        self._points = EventLog(job.store, f"{job.uses}/{job.fingerprint}/{job.attempt}", self.info)

    def started(self) -> None:
        self._send("started")

    def info(self, text: str) -> None:
        self._send("info", text)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self._send("progress", done, total, unit, note)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._points.write(Point(step=step, values=dict(values)))

    def flush(self) -> None:
        self._points.flush()

    def should_stop(self) -> bool:
        self.place.with_suffix(".polled").write_text(self.cell)
        return (self.place.parent / "stop").exists()

    def _send(self, kind: str, *payload: Any) -> None:
        with self.place.with_suffix(".events").open("a") as file:
            file.write(json.dumps([kind, self.cell, time.time(), payload]) + "\n")


def run_here(place: Path) -> None:
    """Run the cell of this process."""
    job = pickle.loads(place.with_suffix(".job").read_bytes())
    reporter = FileReporter(job, place)
    unblock_for_children()
    reporter.started()
    try:
        run_cell(job, reporter)
    except Exception as error:
        place.with_suffix(".error").write_bytes(pickle.dumps(error))
    reporter.flush()


if __name__ == "__main__":
    from tests.pipeline import local_cluster  # by its name, which the jobs are pickled with

    if sys.argv[1] == "cell":
        local_cluster.run_here(Path(sys.argv[2]))
    else:
        from pipeline.cli.main import main
        from pipeline.execution import cluster

        subprocess._USE_VFORK = False  # by which gVisor's execve fails now and then, below threads
        cluster.RayCluster = local_cluster.LocalCluster  # type: ignore[misc, assignment]
        main()
