"""SIGTERM and Ctrl-C: while something trains a run is asked to end, and gives it time; otherwise
it ends at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

SAVING = 300.0  # seconds that training is given to make a checkpoint
QUIET = (
    60.0  # seconds after which nobody is there who would: ranks ask every second whether to stop
)
CLOSING = 120.0  # seconds for the rest: records on their way to MLflow, leases, Ray


class Ending:
    """Hears the two signals while its block lasts.

    `asked`: the run is to end when what trains has saved what it has.

    KeyboardInterrupt is raised in the main thread when `trains` says that nothing does, and at the
    second signal.
    """

    def __init__(self, trains: Callable[[], bool]) -> None:
        self.asked = False
        self._trains = trains
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Ending:
        self._before = self.hear()
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def hear(self) -> dict[signal.Signals, Any]:
        """Install the handlers, again where somebody else has put his there; returns those from
        before.

        What is ignored stays so: Ctrl-C is not meant for what a shell runs in the background.
        """
        heard = [
            name
            for name in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(name) is not signal.SIG_IGN
        ]
        return {name: signal.signal(name, self._on_signal) for name in heard}

    def _on_signal(self, _signal: int, _frame: Any) -> None:
        if self.asked or not self._trains():
            raise KeyboardInterrupt
        self.asked = True
