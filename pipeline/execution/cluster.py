"""The Ray cluster of a run: connect or start one, and say at once what can never be placed."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

import ray
from ray.job_config import JobConfig

from gpt1 import fault
from gpt1.errors import UserError
from pipeline.workflow.expand import Cell
from pipeline.workflow.user_code import NONE, ROOT, UserCode, sent

OBJECT_STORE = 256 << 20  # bytes; parts go through files, so little passes through Ray's own store


class _JobConfig(JobConfig):
    """Ray puts the driver's working directory first on the path of its workers, where any folder
    in it shadows a package of its name; only that of an uninstalled checkout, which the driver
    imports from, may be there.
    """

    def _serialize(self) -> str:
        self._py_driver_sys_path = [
            path for path in self._py_driver_sys_path if path == str(ROOT) and path in sys.path
        ]
        serialized: str = super()._serialize()
        return serialized


def connect(address: str | None, code: UserCode = NONE) -> str:
    """Connect to the cluster at `address`, or start one on this machine, as `ray_access.prepare`
    has got it ready.

    Workers import `code`. Returns a few words about the cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {
        "log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True,
    }
    quiet["job_config"] = _JobConfig()
    if sent() is None:  # a submitted job has it already
        quiet["runtime_env"] = with_faults(code.runtime_env())
    own: dict[str, Any] = (
        {"include_dashboard": False, "object_store_memory": OBJECT_STORE} if address is None else {}
    )
    where = f"at {address}" if address else "on this machine"
    try:
        ray.init(address=address or "local", **own, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        why = " ".join(str(error.__cause__ or error).split())[
            :300
        ]  # one line, though Ray says in four which versions differ
        raise UserError(
            f"Ray {where}: cannot connect or start ({why}); run `gpt1 doctor` to check this machine"
        ) from None
    have = ray.cluster_resources()
    return (
        f"Ray {ray.__version__} {where}: {have.get('CPU', 0):g} CPUs, {have.get('GPU', 0):g} GPUs"
    )


def with_faults(environment: dict[str, Any]) -> dict[str, Any]:
    """A runtime environment whose workers have this process's faults, if it has any."""
    faults = fault.passed_on()
    variables = {**environment.get("env_vars", {}), **faults}
    return {**environment, "env_vars": variables} if faults else environment


def check_capacity(cells: Iterable[Cell]) -> None:
    """UserError for a cell that needs more than the cluster has, after its `wait:` is over."""
    for cell in cells:
        together = (
            (cell.resources.min_workers or cell.resources.workers or 1)
            if cell.stage.gang_scheduled
            else 1
        )
        need = {"CPU": cell.resources.cpus * together, "GPU": cell.resources.gpus * together}
        deadline = time.monotonic() + (cell.wait or 0)
        while (lack := _lack(need)) is not None:
            if time.monotonic() >= deadline:
                fix = (
                    "lower `resources:` in the workflow, use a larger cluster, or set `wait:` to"
                    " wait for more nodes"
                )
                raise UserError(f"{cell.id} needs {lack}; {fix}")
            time.sleep(1)


def _lack(need: dict[str, float]) -> str | None:
    have = ray.cluster_resources()
    for kind, amount in need.items():
        if amount > have.get(kind, 0):
            return f"{amount:g} {kind}s, but the cluster has {have.get(kind, 0):g}"
    return None
