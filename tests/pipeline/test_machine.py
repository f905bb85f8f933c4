"""System metrics: read while a cell runs, under MLflow's names, and not after its end."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pipeline.machine import watched


class Kept:
    def __init__(self) -> None:
        self.points: list[tuple[int, Mapping[str, float]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, values))


def test_points_come_while_the_block_lasts_and_end_with_it() -> None:
    short, kept, began = Kept(), Kept(), int(time.time())
    with watched(short):
        pass
    with watched(kept, first=0.01, period=0.05):
        deadline = time.monotonic() + 30
        while len(kept.points) < 2:
            assert time.monotonic() < deadline, "nothing was read"
    count = len(kept.points)
    time.sleep(0.2)
    assert (len(kept.points), short.points) == (count, [])
    assert began <= kept.points[0][0] <= kept.points[-1][0] <= time.time()
    found = kept.points[-1][1]
    assert all(name.startswith("system/") for name in found)
    assert found["system/cpu_utilization_percentage"] > 0
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    assert found["system/system_memory_usage_megabytes"] > 50
