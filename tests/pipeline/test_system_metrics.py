"""System metrics: read while a cell runs, under MLflow's names, and not after its end."""

import time
from types import SimpleNamespace
from typing import Any

from pipeline.tracking.system_metrics import record_system_metrics
from tests.servers.process import wait_until


def test_points_come_while_the_block_lasts_and_end_with_it() -> None:
    kept, began = list[Any](), int(time.time())
    into: Any = SimpleNamespace(log=lambda step, values: kept.append((step, values)))
    with record_system_metrics(into):
        pass
    with record_system_metrics(into, first=0.01, period=0.05):
        assert not kept
        wait_until(lambda: len(kept) >= 2, "two points")
    count, (last, found) = len(kept), kept[-1]
    time.sleep(0.2)
    assert len(kept) == count
    assert began <= kept[0][0] <= last <= time.time()
    assert 0 < found["system/system_memory_usage_percentage"] < 100
    assert {name.partition("/")[0] for name in found} == {"system"}
