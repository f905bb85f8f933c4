"""The command line with signals in certain phases: `python -m tests.e2e.signaled WORDS`.

With GPT1_SIGNALS, a JSON object of phase -> [[SIGNAL, seconds to wait after it], ...], the driver
gets these signals in these phases: planned, connect, start (of a job), running (the job `training`
has made a step), close.
"""

import json
import os
import signal
import time
from typing import Any

from pipeline.cli.main import main
from pipeline.execution import cluster

SIGNALS = "GPT1_SIGNALS"
WANTED = json.loads(os.environ.get(SIGNALS, "{}"))


def reach(phase: str) -> None:
    for name, wait in WANTED.pop(phase, []):
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(wait)


class SignaledCluster(cluster.RayCluster):
    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        reach("planned")

    def connect(self) -> str:
        reach("connect")
        return super().connect()

    def start(self, *given: Any) -> Any:
        handle = super().start(*given)
        reach("start")
        return handle

    def poll(self) -> list[Any]:
        events = super().poll()
        if any((event.cell, event.kind) == ("training", "progress") for event in events):
            reach("running")
        return events

    def close(self) -> None:
        reach("close")
        super().close()


if __name__ == "__main__":
    cluster.RayCluster = SignaledCluster  # type: ignore[misc]
    main()
