"""Ray Train around pre-training: it places the ranks, connects them, and starts them again when one is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError
from stages._ray_claims import claims_released

if TYPE_CHECKING:
    from gpt1.train.pretrain_config import Place, PretrainConfig
    from stages.contract import Context

RESTARTS = 3
REFUSAL = "refused.txt"


def train_on_ray(config: PretrainConfig, place: Place, context: Context, workers: int) -> None:
    """Run `gpt1.train.pretrain.pretrain` on `workers` ranks of the Ray cluster this process is connected to.

    A lost rank restarts all of them, at most three times, from the newest whole checkpoint. Raises what a rank raised: UserError
    as it is, anything else inside Ray's TrainingFailedError.
    """
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")  # for the dashboard, and it needs one
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    resources = context.resources
    each = {"CPU": resources.cpus, **({"GPU": resources.gpus} if resources.gpus else {})}
    refusal = context.attempt / REFUSAL
    quiet: dict[str, Any] = {"logging_config": LoggingConfig(log_level="WARNING")}
    trainer = TorchTrainer(
        run_rank,
        train_loop_config={"config": config, "place": place, "reporter": context.reporter, "refusal": str(refusal)},
        torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=bool(resources.gpus), resources_per_worker=each),
        run_config=RunConfig(
            name="ray",
            storage_path=str(context.attempt),
            failure_config=FailureConfig(max_failures=RESTARTS),
            **quiet,
        ),
    )
    with claims_released():
        trainer.fit()
    if refusal.exists():
        raise UserError(refusal.read_text(encoding="utf-8"))


def run_rank(arguments: dict[str, Any]) -> None:
    """What each rank runs. A UserError would come again at every restart, so it is left in a file, and all ranks end.

    So is a stop on request (a file `stop` in the attempt's folder): Ray must not start the ranks again.
    """
    from gpt1.train.interrupt import Stopped
    from gpt1.train.pretrain import pretrain

    refusal = Path(arguments["refusal"])
    if refusal.exists():
        return
    try:
        pretrain(arguments["config"], arguments["place"], arguments["reporter"])
    except (UserError, Stopped) as error:
        refusal.write_text(str(error), encoding="utf-8")
