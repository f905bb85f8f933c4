"""Ray Train's elastic scaling, limited to rank counts that divide a batch evenly.

When a rank is lost, Ray Train restarts as many ranks as fit, and it checks now and then whether
more fit. It accepts any count between the minimum and the maximum, but a micro-batch is never
split, so only counts that divide the number of micro-batches work. Ray Train (2.60) hard-codes its
scaling policy, so the trainer replaces it with ours.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2.api.config import ScalingConfig


class DividingPolicy(ElasticScalingPolicy):
    """As many ranks as there is room for out of `counts`."""

    def __init__(self, scaling_config: ScalingConfig, counts: list[int]) -> None:
        super().__init__(scaling_config)
        self.counts = counts

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        room = super()._count_possible_workers(reserved_resources)
        return max((count for count in self.counts if count <= room), default=0)


class ElasticTrainer(TorchTrainer):
    """A TorchTrainer whose number of ranks is one of `counts`, the most there is room for."""

    counts: list[int]
    scaling_config: ScalingConfig

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = DividingPolicy(self.scaling_config, self.counts)
        base: Any = super()  # whose types are those of Ray Train's first version
        return base._initialize_and_run_controller(**{**arguments, "scaling_policy": policy})


def counts_that_share(micro_batches: int, least: int, most: int) -> list[int]:
    """The numbers of ranks from `least` to `most` that can share so many micro-batches."""
    return [count for count in range(least, most + 1) if micro_batches % count == 0]
