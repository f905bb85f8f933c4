"""How running cells and the driver speak to each other: an actor between them, and the reporter
that cells are given.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.store.base import Store
from pipeline.tracking.events import EventLog, Point


@dataclass(frozen=True)
class ChannelMessage:
    """One thing a cell said. `kind`: started, info or progress."""

    kind: str
    cell: str
    payload: tuple[Any, ...]


ASK_EVERY = 1.0  # seconds between questions whether to stop
ANSWER = 10.0  # seconds to wait for one


class EventChannel:
    """Collects events until the driver polls them, and knows whether cells are to stop.

    A Ray actor that takes no CPU. One that dies starts again and knows nothing: the events it had
    are lost, and the driver repeats `stop`.
    """

    def __init__(self) -> None:
        self._events: list[ChannelMessage] = []
        self._stopping = False
        self._polled: dict[str, float] = {}
        # Cells may have polled its predecessor.
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        self._unknown = time.monotonic() if restarted else -math.inf

    def stop(self) -> None:
        """From now on cells that poll are asked to stop."""
        self._stopping = True

    def should_stop(self, cell: str) -> bool:
        """Whether `cell`, which polls this, is to stop."""
        self._polled[cell] = time.monotonic()
        return self._stopping

    def seconds_since_poll(self, cells: Iterable[str]) -> dict[str, float]:
        """How long ago each cell last polled; infinite for one that never has."""
        now = time.monotonic()
        return {cell: now - self._polled.get(cell, self._unknown) for cell in cells}

    def push(self, event: ChannelMessage) -> None:
        """Take one event."""
        self._events.append(event)

    def poll(self) -> list[ChannelMessage]:
        """Return all events since the last call."""
        events, self._events = self._events, []
        return events


def start_channel() -> Any:
    """The channel of this run, on the driver's own node: elsewhere the loss of a worker node would
    end the run.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(EventChannel)
    return actor.options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()


class ChannelReporter:
    """Sends what a cell says to the channel, without waiting; its points go to `attempt`, a folder
    of the store.
    """

    def __init__(self, channel: Any, cell: str, store: Store, attempt: str) -> None:
        self.channel, self.cell = channel, cell
        self._place = store, attempt
        self._points = EventLog(store, attempt, self.info)
        self._stopping = threading.Event()
        self._listener: threading.Thread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A listener, and an open file, stay where they are.
        return ChannelReporter, (self.channel, self.cell, *self._place)

    def started(self) -> None:
        """The cell's own process has begun."""
        self._send("started")

    def info(self, text: str) -> None:
        self._send("info", text)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self._send("progress", done, total, unit, note)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        numbers = {name: float(value) for name, value in values.items()}
        self._points.write(Point(step=step, values=numbers))

    def flush(self) -> None:
        self._points.flush()

    def close(self) -> None:
        """The cell's process has nothing more to log."""
        self._points.close()

    def should_stop(self) -> bool:
        """Whether the channel says so.

        The first call waits for its answer. Then a thread asks on: no step waits, the answer is
        fresh however long a step takes, and the channel knows that the cell would hear it.
        """
        if self._listener is None:
            self._ask()
            self._listener = threading.Thread(target=self._ask_on, daemon=True)
            self._listener.start()
        return self._stopping.is_set()

    def _ask_on(self) -> None:
        while True:
            time.sleep(ASK_EVERY)
            try:
                self._ask()
            except Exception:
                return  # no longer connected to Ray

    def _ask(self) -> None:
        with suppress(RayError):  # the channel is starting again, or gone
            if ray.get(self.channel.should_stop.remote(self.cell), timeout=ANSWER):
                self._stopping.set()

    def _send(self, kind: str, *payload: Any) -> None:
        self.channel.push.remote(ChannelMessage(kind, self.cell, payload))
