"""The Ray cluster of a run: everything that the driver asks of Ray.

A cluster that is lost (its control service or this node's raylet was killed, or its head is gone)
is found by a thread that connects to both. Ray itself would notice after a minute, and end the
driver by a line of its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gpt1 import fault
from gpt1.errors import UserError
from pipeline.execution.causes import oom_kills
from pipeline.execution.channel import ANSWER, ChannelMessage, ChannelReporter, start_channel
from pipeline.execution.shutdown import FAILED, unblock_for_children
from pipeline.execution.worker import Job, run_cell
from pipeline.tracking.system_metrics import record_system_metrics
from pipeline.workflow.expand import Cell
from pipeline.workflow.user_code import NONE, ROOT, UserCode, code_from_environment
from stages._ray_private import OwnPathJobConfig, is_tested

OBJECT_STORE = 256 << 20  # bytes; parts go through files, so little passes through Ray's own store
LOOK = 2.0  # seconds between looks at the cluster, and for an answer
REFUSED, SILENT, LOST = 4, 1, 12
"""What a look counts whose connection is refused by this machine, or fails otherwise (a head
elsewhere may be starting again), and the sum of looks in a row that means it is lost: after 6
seconds, or 48 at most. Ray waits for 60.
"""
DISCONNECT, DEAD = 15.0, 3.0  # seconds; from what is dead Ray takes nine, for nothing


class ClusterLostError(Exception):
    """The cluster no longer answers; the command ends with exit status 1."""


def execute_cell(job: Job, reporter: ChannelReporter) -> None:
    """Run one cell on a worker of the cluster."""
    unblock_for_children()
    reporter.started()
    try:
        with record_system_metrics(reporter.log):
            run_cell(job, reporter)
    finally:
        reporter.close()


class RayCluster:
    """The cluster at `address`, as `ray_access.prepare` has got it ready, or one that `connect`
    starts on this machine. Workers import `code`.
    """

    def __init__(self, address: str | None, code: UserCode = NONE) -> None:
        self._address, self._code = address, code
        self.exit_status = FAILED
        """Of a process that cannot disconnect in time: set it when the run's end is known."""
        self._processes: list[psutil.Process] = []  # that Ray has started for this driver
        self._below: set[psutil.Process] = set()  # and what those have started
        self._watch: ClusterWatch | None = None
        self._oom_kills = oom_kills()
        # A process that has used a GPU keeps some of its memory, so it ends with its cell; others
        # serve the next one.
        serving = ray.remote(max_calls=0, max_retries=0)(execute_cell)
        self._remote = serving, ray.remote(max_calls=1, max_retries=0)(execute_cell)

    def connect(self) -> str:
        """Connect; a few words about the cluster. Raises UserError where that is not possible."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, Any] = {
            "log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True,
            "job_config": OwnPathJobConfig(str(ROOT)) if is_tested() else None,
        }  # fmt: skip
        if code_from_environment() is None:  # a submitted job has it already
            options["runtime_env"] = with_faults(self._code.runtime_env())
        if self._address is None:
            options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE}
        where = f"at {self._address}" if self._address else "on this machine"
        before = psutil.Process().children()
        try:
            ray.init(address=self._address or "local", **options)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            # One line, though Ray says in four which versions differ.
            why = " ".join(str(error.__cause__ or error).split())[:300]
            advice = "run `gpt1 doctor` to check this machine"
            raise UserError(f"Ray {where}: cannot connect or start ({why}); {advice}") from None
        if self._address is None:
            self._processes = [one for one in psutil.Process().children() if one not in before]
            self._below = _below(self._processes)
        self._watch = ClusterWatch(_services(), SILENT if self._address else REFUSED)
        self._channel = start_channel()
        have = ray.cluster_resources()
        cpus, gpus = have.get("CPU", 0), have.get("GPU", 0)
        return f"Ray {ray.__version__} {where}: {cpus:g} CPUs, {gpus:g} GPUs"

    def check_capacity(self, cells: Iterable[Cell], sleep: Callable[[float], None]) -> None:
        """UserError for a cell that needs more than the cluster has, after its `wait:` is over."""
        for cell in cells:
            own, together = cell.resources, 1
            if cell.stage.gang_scheduled:
                together = own.min_workers or own.workers or 1
            need = {"CPU": own.cpus * together, "GPU": own.gpus * together}
            deadline = time.monotonic() + (cell.wait or 0)
            while (lack := _lack(need)) is not None:
                if time.monotonic() >= deadline:
                    fix = "lower `resources:` in the workflow, use a larger cluster, or set `wait:`"
                    raise UserError(f"{cell.id} needs {lack}; {fix} to wait for more nodes")
                sleep(1)

    def check(self) -> None:
        """Raises ClusterLostError when the cluster no longer answers."""
        if self._watch and self._watch.lost:
            why = " (out of memory)" if self.oom_kills() else ""
            what = f"{self._watch.lost} was killed or cannot be reached{why}"
            raise ClusterLostError(f"lost the Ray cluster: {what}; run the same command to resume")

    def oom_kills(self) -> int:
        """How many processes the kernel has killed for lack of memory since the run began."""
        return oom_kills() - self._oom_kills

    def start(self, job: Job, cell: Cell) -> Any:
        """Start a cell as soon as there is room; the handle that `wait` and `cancel` take."""
        resources = cell.resources
        own: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
        if cell.stage.is_coordinator:
            own = {"num_cpus": 0}
        if cell.stage.gang_scheduled:
            # It only watches its ranks: on the driver's node it dies with nothing that would live
            # without it.
            here = ray.get_runtime_context().get_node_id()
            own["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=True)
        remote = self._remote[bool(resources.gpus)].options(name=cell.id, **own)
        attempt = f"{job.uses}/{job.fingerprint}/{job.attempt}"
        return remote.remote(job, ChannelReporter(self._channel, cell.id, job.store, attempt))

    def wait(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """Those of the cells that have ended, after at most `seconds`."""
        ready: list[Any] = ray.wait(list(handles), num_returns=len(handles), timeout=seconds)[0]
        return ready

    def result(self, handle: Any) -> None:
        """Raises what ended a cell, if that was an error."""
        ray.get(handle, timeout=ANSWER)

    def cancel(self, handle: Any) -> None:
        """End a cell's process."""
        if not (self._watch and self._watch.lost):
            ray.cancel(handle, force=True)

    def poll(self) -> list[ChannelMessage]:
        """What cells have said since the last call."""
        events: list[ChannelMessage] = _answer(self._channel.poll.remote(), [])
        return events

    def ask_to_stop(self, cells: Iterable[str]) -> dict[str, float]:
        """Ask all cells that poll to stop; for how many seconds each of these has not polled."""
        self._channel.stop.remote()
        asked = self._channel.seconds_since_poll.remote(list(cells))
        silent: dict[str, float] = _answer(asked, dict.fromkeys(cells, 0.0))
        return silent

    def close(self) -> None:
        """Disconnect, and end what `connect` started, in at most DISCONNECT seconds, whatever has
        become of the cluster.
        """
        dead = self._watch is not None and self._watch.stop()
        started = {*self._processes, *self._below, *_below(self._processes)}
        if dead:
            _kill(started)
        disconnect = threading.Thread(target=ray.shutdown, daemon=True)
        disconnect.start()
        deadline = time.monotonic() + (DEAD if dead else DISCONNECT)
        while disconnect.is_alive() and time.monotonic() < deadline:
            disconnect.join(0.05)
            _kill(filter(_is_to_end, self._processes))
        _kill(started)  # agents, which would ask their parent to end
        if disconnect.is_alive():
            # Instead of Ray's own, which would wait for it.
            atexit.register(lambda: os._exit(self.exit_status))


class ClusterWatch:
    """Connects to a cluster's services, HOST:PORT by what they are called, now and then."""

    def __init__(self, services: dict[str, str], refused: int) -> None:
        self.lost = ""
        """The service that no longer answers."""
        self._services, self._refused, self._stopped = services, refused, threading.Event()
        threading.Thread(target=self._look, name="cluster", daemon=True).start()

    def stop(self) -> bool:
        """Look once more, and then no more; whether a service does not answer."""
        self._stopped.set()
        return any(map(self._failure, self._services.values()))

    def _look(self) -> None:
        failed = dict.fromkeys(self._services, 0)
        while not self.lost and not self._stopped.wait(LOOK):
            for name, place in self._services.items():
                count = self._failure(place)
                failed[name] = failed[name] + count if count else 0
                if failed[name] >= LOST:
                    self.lost = f"{name} ({place})"

    def _failure(self, place: str) -> int:
        """0 where a service answers, else what the look counts."""
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=LOOK).close()
        except ConnectionRefusedError:
            return self._refused
        except OSError:
            return SILENT
        return 0


def _services() -> dict[str, str]:
    """The control service of the cluster, and the raylet of this node."""
    context = ray.get_runtime_context()
    services = {"its control service": context.gcs_address}
    for node in ray.nodes():
        if node["NodeID"] == context.get_node_id():
            place = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
            services["its raylet on this node"] = place
    return services


def _answer(reference: Any, otherwise: Any) -> Any:
    """What an actor answers, or `otherwise` where it is starting again."""
    try:
        return ray.get(reference, timeout=ANSWER)
    except RayError:
        return otherwise


def _below(processes: Iterable[psutil.Process]) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for process in processes:
        with suppress(psutil.Error):
            found.update(process.children(recursive=True))
    return found


def _is_to_end(process: psutil.Process) -> bool:
    """Whether Ray has sent it SIGTERM, for whose effect it waits a second: it is blocked there, as
    it was in the driver when the process was started.
    """
    with suppress(OSError, IndexError):
        status = Path(f"/proc/{process.pid}/status").read_text()
        return bool(int(status.split("ShdPnd:")[1].split()[0], 16) & 1 << (signal.SIGTERM - 1))
    return False


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def with_faults(environment: dict[str, Any]) -> dict[str, Any]:
    """A runtime environment whose workers have this process's faults, if it has any."""
    faults = fault.passed_on()
    variables = {**environment.get("env_vars", {}), **faults}
    return {**environment, "env_vars": variables} if faults else environment


def _lack(need: dict[str, float]) -> str | None:
    have = ray.cluster_resources()
    for kind, amount in need.items():
        if amount > have.get(kind, 0):
            return f"{amount:g} {kind}s, but the cluster has {have.get(kind, 0):g}"
    return None
