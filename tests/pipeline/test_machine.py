"""System metrics: read while a cell runs, under MLflow's names, and not after its end."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from pipeline.machine import watched


def test_points_come_while_the_block_lasts_and_end_with_it() -> None:
    short, kept, began = list[Any](), list[Any](), int(time.time())

    def into(points: list[Any]) -> Any:
        return SimpleNamespace(log=lambda step, values: points.append((step, values)))

    with watched(into(short)):
        pass
    with watched(into(kept), first=0.01, period=0.05):
        deadline = time.monotonic() + 30
        while len(kept) < 2:
            assert time.monotonic() < deadline, "nothing was read"
    count, (last, found) = len(kept), kept[-1]
    time.sleep(0.2)
    assert (len(kept), short) == (count, [])
    assert began <= kept[0][0] <= last <= time.time()
    assert all(name.startswith("system/") for name in found)
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    assert found["system/system_memory_usage_megabytes"] > 50
    assert found["system/cpu_utilization_percentage"] >= 0
