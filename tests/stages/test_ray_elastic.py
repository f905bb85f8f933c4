"""Which number of ranks a training goes on with. The whole of it, with hosts that go and come: tests/cluster/test_elastic.py."""

from __future__ import annotations

import pytest
from ray.train.v2.api.config import ScalingConfig

from stages._ray_elastic import DividingPolicy, counts_that_share


@pytest.mark.parametrize(("room", "ranks"), [(0, 0), (1, 0), (2, 2), (3, 2), (5, 4), (7, 4), (9, 8)])
def test_the_most_ranks_that_share_the_micro_batches(room: int, ranks: int) -> None:
    """Of 8 micro-batches, at least 2 ranks: 3, 5, 6 and 7 cannot share them. 0 means that it waits."""
    counts = counts_that_share(8, 2, 8)
    assert counts == [2, 4, 8]
    policy = DividingPolicy(ScalingConfig(num_workers=(2, 8), resources_per_worker={"CPU": 2}), counts)
    nodes = {f"node{n}": {"CPU": 3.0} for n in range(room)}  # room for one rank each, and a core left over
    assert policy._count_possible_workers(nodes) == ranks
