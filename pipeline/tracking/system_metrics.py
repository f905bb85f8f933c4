"""What a machine is doing while a job runs on it: the curves that MLflow shows as system metrics,
under MLflow's own names.

Not by MLflow's own collectors (mlflow.system_metrics.metrics): importing them imports all of
MLflow, 1.1 s of a processor and 114 to 161 MB of memory (mlflow 3.17.2) in each worker, where jobs
on text end within seconds. This file costs 0.02 s and 4 MB.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

FIRST = 3.0  # seconds to the first reading: what ends sooner needs no curve
PERIOD = 10.0  # seconds between two readings
MB = 1e6


Log = Callable[[int, Mapping[str, float]], None]
"""Takes a point of several curves: its step, and values by name."""


@contextmanager
def record_system_metrics(log: Log, first: float = FIRST, period: float = PERIOD) -> Iterator[None]:
    """Read this machine now and then, in a thread, for as long as the block lasts.

    A point's step is the second since 1970: a second attempt, perhaps on another machine, goes
    on where the curve ended.
    """
    over = threading.Event()

    def read() -> None:
        readings, wait = Readings(), first
        while not over.wait(wait):
            with suppress(OSError):  # the machine said nothing this time
                log(int(time.time()), readings())
            wait = period

    thread = threading.Thread(target=read, name="machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=period)


class Readings:
    """Reads processor, memory, disk, network and NVIDIA GPUs; rates are since the reading
    before.
    """

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        psutil.cpu_percent()  # the first call only begins to count
        self._sent = self._traffic()
        self._cards = _cards()

    def __call__(self) -> dict[str, float]:
        """Percentages, and megabytes of 10^6 bytes; network since the last call."""
        memory, disk = self._psutil.virtual_memory(), self._psutil.disk_usage("/")
        before, self._sent = self._sent, self._traffic()
        found = {
            "cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MB,
            "system_memory_usage_percentage": memory.percent, "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MB,
            "network_receive_megabytes": (self._sent[0] - before[0]) / MB,
            "network_transmit_megabytes": (self._sent[1] - before[1]) / MB,
        }
        for number, card in enumerate(self._cards):
            found |= {f"gpu_{number}_{name}": value for name, value in _card(card).items()}
        return {f"system/{name}": float(value) for name, value in found.items()}

    def _traffic(self) -> tuple[int, int]:
        """Bytes received and sent since the machine began; zeros where there is no network."""
        counted = self._psutil.net_io_counters()
        return (counted.bytes_recv, counted.bytes_sent) if counted else (0, 0)


def _cards() -> list[Any]:
    """Handles of the NVIDIA GPUs; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return list(map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount())))
    except pynvml.NVMLError:
        return []


def _card(handle: Any) -> dict[str, float]:
    """What a card says; a card in trouble says nothing this time."""
    import pynvml

    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        used = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
    except pynvml.NVMLError:
        return {}
    return {
        "utilization_percentage": used, "memory_usage_megabytes": memory.used / MB,
        "memory_usage_percentage": 100 * memory.used / memory.total,
    }
