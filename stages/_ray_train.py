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
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import ray
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from gpt1 import fault
from gpt1.errors import StoppedError, UserError
from gpt1.train.checkpoint import file_sha256
from gpt1.train.config import PretrainConfig, RuntimeConfig
from gpt1.train.dist import Stopped
from gpt1.train.trainer import pretrain
from stages._ray_private import placement_group_cleanup
from stages.contract import Context, Reporter, StoreAccess

RESTARTS = 3
REFUSED = "refused.txt"
TorchBackend: Any = TorchConfig().backend_cls
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Ray Train trains in a thread; in an arena of its own glibc returns large tensors whatever
`use_threads` says.
"""


def on_this_host(
    runtime: RuntimeConfig, files: Mapping[str, Any], store: StoreAccess
) -> RuntimeConfig:
    """`runtime` with the paths of its `files` (by field), fetched and checked. Raises
    DamagedArtifact.
    """
    paths = store.localize(files)
    train, held_out, earlier = (
        tuple(map(str, paths[name])) for name in ("train", "held_out", "earlier")
    )
    return replace(
        runtime, train=train, held_out=held_out, earlier=earlier, books=str(paths["books"]),
        vocabulary=str(paths["vocabulary"][0].parent), output=str(paths["output"]),
    )  # fmt: skip


def train_on_ray(
    config: PretrainConfig, runtime: RuntimeConfig, files: Mapping[str, Any], context: Context
) -> None:
    """Run `gpt1.train.trainer.pretrain` on `workers` ranks of the Ray cluster this process is
    connected to.

    A lost rank restarts all of them, at most three times, from the newest complete checkpoint. With
    `min_workers` Ray Train chooses the number of ranks: as many as there is room for, counted again
    every 60 seconds. Raises a rank's UserError as it is, anything else inside Ray's
    TrainingFailedError.
    """
    resources, store, attempt = context.resources, context.store, context.attempt
    most, least = resources.workers or 1, resources.min_workers
    workers: Any = most if least is None else (least, most)
    mark = "" if store.shared else store.pin(attempt)
    run: Any = Rank(config, runtime, files, context.reporter, store, mark).run
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
            worker_runtime_env={} if resources.gpus else {"env_vars": ONE_ARENA},  # type: ignore[call-arg]  # known to the second version
        ),
    )
    with placement_group_cleanup(context.info):
        result: Any = trainer.fit()  # Ray's annotations are those of Ray Train's first version
    returned: UserError | dict[str, str] = result.return_value
    if isinstance(returned, UserError):
        raise returned
    for name, digest in returned.items():
        file = store.storage.download(attempt, name, attempt / name)
        if file is None or file_sha256(file) != digest:
            raise OSError(f"{name} was corrupted in transfer from rank 0")


@dataclass(frozen=True)
class Rank:
    """What each rank runs, and with what."""

    config: PretrainConfig
    runtime: RuntimeConfig
    files: Mapping[str, Any]
    reporter: Reporter
    store: StoreAccess
    mark: str
    """Of the attempt's folder on the stage's host, where hosts do not share the store."""

    def run(self) -> UserError | dict[str, str]:
        """Train; returns why it ended early, or what rank 0 uploaded (name -> sha256)."""
        try:
            return self._run()
        finally:
            self.reporter.flush()

    def _run(self) -> UserError | dict[str, str]:
        damage, storage = None, self.store.storage
        try:
            runtime = on_this_host(self.runtime, self.files, self.store)
        except UserError as error:  # a damaged file; all ranks must learn of it
            damage = error
        to_stop, damage = self._meet(damage)
        if damage is not None:
            return damage
        output = Path(runtime.output)
        if (reason := storage.read(output, REFUSED)) is not None:
            return UserError(reason.decode())
        if to_stop:
            return StoppedError(
                "stopped on request before training; run the same command to resume"
            )
        try:
            pretrain(self.config, runtime, self.reporter, None if self.store.shared else storage)
        except (StoppedError, Stopped) as error:
            return StoppedError(str(error))
        except UserError as error:
            (output / REFUSED).write_text(str(error), encoding="utf-8")
            storage.upload(output, REFUSED, output / REFUSED)
            return UserError(str(error))
        return self._upload(output)

    def _meet(self, damage: UserError | None) -> tuple[bool, UserError | None]:
        """Rank 0 reports where the ranks are; returns, on every rank, whether it was asked to stop
        before they came, and the first `damage` that one of them found.
        """
        main = dist.get_rank() == 0
        asked = main and self.reporter.should_stop()
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, (ray.util.get_node_ip_address(), asked, damage))
        if main:
            counts = Counter(address for address, _, _ in found)
            places = ", ".join(f"{address} ({count})" for address, count in counts.items())
            self.reporter.info(f"{len(found)} ranks on {places}")
        return bool(found[0][1]), next((one for _, _, one in found if one), None)

    def _upload(self, output: Path) -> dict[str, str]:
        store, sent = self.store, dict[str, str]()
        if not store.shared and dist.get_rank() == 0 and store.pin(output) != self.mark:
            files = [path for path in output.glob("[!.]*") if path.is_file()]
            for path in [*files, *output.glob("snapshots/*.safetensors")]:
                name = path.relative_to(output).as_posix()
                store.storage.upload(output, name, path)
                sent[name] = file_sha256(path)
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
