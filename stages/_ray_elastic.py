"""A training that goes on with fewer ranks while hosts are missing: Ray Train's elastic scaling,
held to counts that share a batch.

Ray Train starts the ranks again, as many as there is room for, when one is lost, and looks now and
then whether there is room for more. It would take any count between the least and the most; a
micro-batch is never split, so only those that divide the number of micro-batches will do. Which
policy decides is fixed inside of Ray Train (2.60), so the trainer puts ours in its place.
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
