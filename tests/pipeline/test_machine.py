"""System metrics: read while a cell runs, under MLflow's names, on a step that a second try goes on from."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pipeline.machine import Readings, watched


class Kept:
    def __init__(self) -> None:
        self.points: list[tuple[int, Mapping[str, float]]] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.points.append((step, values))


def test_readings_are_this_machines() -> None:
    readings = Readings()
    total = sum(number * number for number in range(1_000_000))  # something to measure
    found = readings()
    assert total > 0
    assert found["system/cpu_utilization_percentage"] > 0
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    assert found["system/system_memory_usage_megabytes"] > 50
    assert all(name.startswith("system/") for name in found)


def test_points_come_while_the_block_lasts_and_end_with_it() -> None:
    kept, began = Kept(), int(time.time())
    with watched(kept, first=0.01, period=0.05):
        deadline = time.monotonic() + 30
        while len(kept.points) < 2:
            assert time.monotonic() < deadline, "nothing was read"
            time.sleep(0.01)
    steps = [step for step, _ in kept.points]
    assert began <= steps[0] <= steps[-1] <= time.time()
    count = len(kept.points)
    time.sleep(0.2)
    assert len(kept.points) == count


def test_what_ends_soon_has_no_curve() -> None:
    kept = Kept()
    with watched(kept):
        pass
    assert kept.points == []
