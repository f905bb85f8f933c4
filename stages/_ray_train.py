"""Run pre-training on Ray Train, which places, connects and restarts the ranks.

    stage       `train_on_ray` starts the trainer and waits for what rank 0 returns
    controller  Ray Train's actor, on the stage's host: it connects the ranks by torch, and restarts
                all of them when one is lost, from the newest complete checkpoint
    ranks       `Rank.run`, once each, and again after every restart

Ray Train would restart a rank that raises a UserError, which would then raise it again. So the rank
writes the reason into the attempt's folder and returns it; after a restart for another cause, ranks
that find this file return its reason at once. Where rank 0 has another folder than the stage, it
uploads its files and returns their digests; the stage downloads and checks them.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from gpt1 import fault
from gpt1.errors import StoppedError, UserError
from gpt1.train.checkpoint import FolderStorage, sha256
from gpt1.train.config import PretrainConfig, RuntimeConfig
from gpt1.train.dist import Stopped
from gpt1.train.trainer import pretrain
from stages._ray_private import placement_group_cleanup
from stages.contract import Context, Reporter, Travel

RESTARTS = 3
REFUSED = "refused.txt"
TorchBackend: Any = TorchConfig().backend_cls


def train_on_ray(config: PretrainConfig, place: RuntimeConfig, context: Context) -> None:
    """Run `gpt1.train.trainer.pretrain` on `workers` ranks of the Ray cluster this process is
    connected to.

    A lost rank restarts all of them, at most three times, from the newest complete checkpoint. With
    `min_workers` Ray Train chooses the number of ranks: as many as there is room for, counted again
    every 60 seconds. Raises a rank's UserError as it is, anything else inside Ray's
    TrainingFailedError.
    """
    resources, travel, attempt = context.resources, context.travel, context.attempt
    most, least = resources.workers or 1, resources.min_workers
    workers: Any = most if least is None else (least, most)
    mark = travel.mark(attempt) if travel else ""
    run: Any = Rank(config, place, context.reporter, travel, mark).run
    trainer = TorchTrainer(
        run,
        torch_config=RankConfig(),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=bool(resources.gpus),
            resources_per_worker={"CPU": resources.cpus, "GPU": resources.gpus},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(attempt),  # for Ray Train's own notes; our checkpoints are elsewhere
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )
    with placement_group_cleanup(context.info):
        result: Any = trainer.fit()  # Ray's annotations are those of Ray Train's first version
    returned: UserError | dict[str, str] = result.return_value
    if isinstance(returned, UserError):
        raise returned
    if travel:
        for name, digest in returned.items():
            file = travel.download(attempt, name, attempt / name)
            if file is None or sha256(file) != digest:
                raise OSError(f"{name} was corrupted in transfer from rank 0")


@dataclass(frozen=True)
class Rank:
    """What each rank runs, and with what."""

    config: PretrainConfig
    place: RuntimeConfig
    reporter: Reporter
    travel: Travel | None
    mark: str
    """Of the attempt's folder on the stage's host, where there is a `travel`."""

    def run(self) -> UserError | dict[str, str]:
        """Train; returns why it ended early, or what rank 0 uploaded (name -> sha256)."""
        travel = self.travel
        place = travel.here(self.place) if travel else self.place
        output, to_stop = Path(place.output), self._meet()
        if (reason := (travel or FolderStorage()).read(output, REFUSED)) is not None:
            return UserError(reason.decode())
        if to_stop:
            return StoppedError(
                "stopped on request before training; run the same command to resume"
            )
        try:
            pretrain(self.config, place, self.reporter, travel)
        except (StoppedError, Stopped) as error:
            return StoppedError(str(error))
        except UserError as error:
            (output / REFUSED).write_text(str(error), encoding="utf-8")
            if travel:
                travel.upload(output, REFUSED, output / REFUSED)
            return UserError(str(error))
        return self._upload(output)

    def _meet(self) -> bool:
        """Rank 0 reports where the ranks are; returns, on every rank, whether it was asked to stop
        before they came.
        """
        main = dist.get_rank() == 0
        asked = main and self.reporter.should_stop()
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, (ray.util.get_node_ip_address(), asked))
        if main:
            counts = Counter(address for address, _ in found)
            places = ", ".join(f"{address} ({count})" for address, count in counts.items())
            self.reporter.info(f"{len(found)} ranks on {places}")
        return bool(found[0][1])

    def _upload(self, output: Path) -> dict[str, str]:
        travel, sent = self.travel, dict[str, str]()
        if travel and dist.get_rank() == 0 and travel.mark(output) != self.mark:
            files = [path for path in output.glob("[!.]*") if path.is_file()]
            for path in [*files, *output.glob("snapshots/*.safetensors")]:
                name = path.relative_to(output).as_posix()
                travel.upload(output, name, path)
                sent[name] = sha256(path)
        return sent


class RankBackend(TorchBackend):
    """Ray Train's connection of the ranks, over the interface that has the node's address in the
    cluster.

    By itself gloo takes the address of the host's name, which on many hosts is the loopback's.
    """

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(name_interface)
        super().on_start(worker_group, backend_config)
        fault.point("trainer.begun")

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        super().on_shutdown(worker_group, backend_config)
        fault.point("trainer.ended")


class RankConfig(TorchConfig):
    @property
    def backend_cls(self) -> type[RankBackend]:
        return RankBackend


def name_interface() -> None:
    """Set the interface of this node's address for gloo and NCCL, unless the user has set one."""
    address = ray.util.get_node_ip_address()
    for name, found in psutil.net_if_addrs().items():
        if any(one.address == address for one in found):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
