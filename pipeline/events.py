"""How running cells speak to the driver: an actor that takes their words, and the reporter they are given."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class Event:
    """One thing a cell said. `kind`: started, say, progress or log."""

    kind: str
    cell: str
    time: float
    payload: tuple[Any, ...]


class Hub:
    """Collects events until the driver fetches them. Runs as a Ray actor that takes no CPU."""

    def __init__(self) -> None:
        self._events: list[Event] = []

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


@dataclass(frozen=True)
class HubReporter:
    """Sends what a cell says to the hub, without waiting."""

    hub: Any
    cell: str

    def started(self) -> None:
        """The cell's own process has begun."""
        self._send("started")

    def say(self, text: str) -> None:
        self._send("say", text)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        self._send("progress", done, total, unit, note)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._send("log", step, {name: float(value) for name, value in values.items()})

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

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.say(f"{step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
