"""Run pre-training on Ray Train, which places, connects and restarts the ranks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1 import fault
from gpt1.errors import StoppedError, UserError
from stages._ray_private import placement_group_cleanup

if TYPE_CHECKING:
    from gpt1.train.pretrain_config import PretrainConfig, RuntimeConfig
    from stages.contract import Context, Reporter, Travel

RESTARTS = 3
REFUSAL, STOPPED = "refused.txt", "stopped.txt"
SENT = ".sent.json"
"""What rank 0 sent to the driver: name -> sha256; nothing where both have the same folder."""


def train_on_ray(
    config: PretrainConfig, place: RuntimeConfig, context: Context, workers: int
) -> None:
    """Run `gpt1.train.pretrain.pretrain` on `workers` ranks of the Ray cluster this process is
    connected to.

    A lost rank restarts all of them, at most three times, from the newest complete checkpoint. With
    `min_workers` Ray Train chooses the number of ranks: as many as there is room for, counted again
    every 60 seconds. Raises what a rank raised: UserError as it is, anything else inside Ray's
    TrainingFailedError.
    """
    os.environ.setdefault(
        "RAY_TRAIN_ENABLE_STATE_TRACKING", "0"
    )  # for the dashboard, and it needs one
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    resources = context.resources
    each = {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}
    travel, attempt = context.travel, context.attempt
    quiet: dict[str, Any] = {"logging_config": LoggingConfig(log_level="WARNING")}
    least = resources.min_workers
    ranks: Any = workers if least is None else (least, workers)
    trainer = TorchTrainer(
        run_rank,
        train_loop_config={
            "config": config, "place": place, "reporter": context.reporter, "travel": travel,
            "mark": travel.mark(attempt) if travel else "",
        },
        torch_config=_torch_config("nccl" if resources.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=ranks, use_gpu=bool(resources.gpus), resources_per_worker=each
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(
                attempt
            ),  # Ray Train's own notes, on the driver's host; our checkpoints do not go through it
            failure_config=FailureConfig(max_failures=RESTARTS),
            **quiet,
        ),
    )
    with placement_group_cleanup(context.info):
        trainer.fit()
    refused = _refusal(attempt, travel)
    if refused is not None:
        raise refused
    if travel:
        _receive(attempt, travel)


def run_rank(arguments: dict[str, Any]) -> None:
    """What each rank runs.

    A UserError would come again at every restart, so it is left in a file, and all ranks end.

    So is a stop on request (a file `stop` in the attempt's folder): Ray must not start the ranks
    again.
    """
    from gpt1.train.pretrain import pretrain
    from gpt1.train.stop_signal import Stopped

    travel: Travel | None = arguments["travel"]
    place = _here(arguments["place"], travel) if travel else arguments["place"]
    to_stop = _gather(arguments["reporter"])
    output = Path(place.output)
    if _refusal(output, travel) is not None:
        return
    try:
        if to_stop:
            raise StoppedError("stopped on request before training; run the same command to resume")
        pretrain(arguments["config"], place, arguments["reporter"], travel)
    except (UserError, Stopped) as error:
        name = STOPPED if isinstance(error, StoppedError | Stopped) else REFUSAL
        (output / name).write_text(str(error), encoding="utf-8")
        if travel:
            travel.upload(output, name, output / name)
        return
    if travel:
        _send(output, travel, arguments["mark"])


def _gather(reporter: Reporter) -> bool:
    """Rank 0 says on which nodes the ranks are; returns, on every rank, whether it has been
    asked to stop before they came.
    """
    import ray
    import torch.distributed as dist

    found: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(found, ray.util.get_node_ip_address())
    if dist.get_rank() == 0:
        places = ", ".join(
            f"{address} ({found.count(address)})" for address in dict.fromkeys(found)
        )
        reporter.info(f"{len(found)} ranks on {places}")
    to_stop = [dist.get_rank() == 0 and reporter.should_stop()]
    dist.broadcast_object_list(to_stop, src=0)
    return to_stop[0]


def _here(place: RuntimeConfig, travel: Travel) -> RuntimeConfig:
    """`place` with this host's paths; DeepSpeed's settings come with the code, which may lie
    elsewhere too.
    """
    from gpt1.train.pretrain_config import DEEPSPEED_FOLDER

    here: RuntimeConfig = travel.here(place)
    return replace(here, deepspeed=str(DEEPSPEED_FOLDER / Path(here.deepspeed).name))


def _refusal(output: Path, travel: Travel | None) -> UserError | None:
    """Why the ranks have ended before their time."""
    for name, kind in ((STOPPED, StoppedError), (REFUSAL, UserError)):
        if (output / name).exists():
            return kind((output / name).read_text(encoding="utf-8"))
        if travel and (sent := travel.read(output, name)) is not None:
            return kind(sent.decode())
    return None


def _send(output: Path, travel: Travel, mark: str) -> None:
    """Rank 0 lets the driver have what it wrote, where that is on another host."""
    from gpt1.train.checkpoint import sha256
    from gpt1.train.dist import DistContext

    if not DistContext.connect().is_main:
        return
    listed: dict[str, str] = {}
    if travel.mark(output) != mark:
        top = [
            path for path in output.iterdir() if path.is_file() and not path.name.startswith(".")
        ]
        for path in [*top, *(output / "snapshots").glob("*.safetensors")]:
            name = path.relative_to(output).as_posix()
            travel.upload(output, name, path)
            listed[name] = sha256(path)
    travel.write(output, SENT, json.dumps(listed).encode())


def _receive(output: Path, travel: Travel) -> None:
    from gpt1.train.checkpoint import sha256

    for name, digest in json.loads(travel.read(output, SENT) or b"{}").items():
        file = travel.download(output, name, output / name)
        if file is None or sha256(file) != digest:
            raise OSError(f"{name} was corrupted in transfer from rank 0")


def _torch_config(backend: str) -> Any:
    """Ray Train's way to connect the ranks, over the interface that has the node's address in the
    cluster.

    Left to itself gloo takes the address that the host's name stands for, which on many hosts is
    the loopback's.
    """
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    class Backend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(name_interface)
            super().on_start(worker_group, backend_config)
            fault.point("trainer.begun")

        def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
            super().on_shutdown(worker_group, backend_config)
            fault.point("trainer.ended")

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Config(backend=backend)


def name_interface() -> None:
    """Tell gloo and NCCL the interface of this node's address, unless somebody has named one."""
    import psutil
    import ray

    address = ray.util.get_node_ip_address()
    for name, found in psutil.net_if_addrs().items():
        if any(one.address == address for one in found):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
