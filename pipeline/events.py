"""How running cells and the driver speak to each other: an actor between them, and the reporter that cells are given."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class Event:
    """One thing a cell said. `kind`: started, say, progress or log."""

    kind: str
    cell: str
    time: float
    payload: tuple[Any, ...]


ASK_EVERY = 1.0  # seconds between questions whether to stop


class Hub:
    """Collects events until the driver fetches them, and knows whether cells are to stop. A Ray actor that takes no CPU."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stopping = False

    def stop(self) -> None:
        """From now on cells that ask are told to stop."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether they are."""
        return self._stopping

    def push(self, event: Event) -> None:
        """Take one event."""
        self._events.append(event)

    def drain(self) -> list[Event]:
        """Give out all events since the last call."""
        events, self._events = self._events, []
        return events


def start_hub() -> Any:
    """The hub of this run, on the driver's own node: elsewhere the loss of a worker would end the run."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Hub).options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote()


class HubReporter:
    """Sends what a cell says to the hub, without waiting."""

    def __init__(self, hub: Any, cell: str) -> None:
        self.hub, self.cell = hub, cell
        self._stopping = False
        self._question: Any = None
        self._asked_at = -ASK_EVERY

    def __reduce__(self) -> tuple[Any, ...]:
        return HubReporter, (self.hub, self.cell)  # a question under way stays with who asked it

    def started(self) -> None:
        """The cell's own process has begun."""
        self._send("started")

    def say(self, text: str) -> None:
        self._send("say", text)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self._send("progress", done, total, unit, note)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._send("log", step, {name: float(value) for name, value in values.items()})

    def stop_asked(self) -> bool:
        """Whether the hub has said so: it is asked now and then, and its answer taken when it is there."""
        if self._question is not None:
            if not ray.wait([self._question], timeout=0)[0]:
                return self._stopping
            with suppress(RayError):  # the hub ends with the driver, and then nobody asks
                self._stopping = bool(ray.get(self._question))
            self._question = None
        elif time.monotonic() - self._asked_at >= ASK_EVERY:
            self._asked_at, self._question = time.monotonic(), self.hub.stopping.remote()
        return self._stopping

    def _send(self, kind: str, *payload: Any) -> None:
        self.hub.push.remote(Event(kind, self.cell, time.time(), payload))


@dataclass(frozen=True)
class PrintReporter:
    """Prints what a cell says: for running a stage in this process, without a cluster."""

    cell: str = ""

    def started(self) -> None:
        self.say("started")

    def say(self, text: str) -> None:
        print(f"{self.cell}: {text}", file=sys.stderr)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self.say(f"{done:g}/{total:g} {unit} {note}")

    def stop_asked(self) -> bool:
        return False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.say(f"{step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
