"""What Ray's public calls cannot do: free the CPUs and GPUs that a dead trainer still reserves,
say where an address leads, and keep a folder off the path of workers.

Ray Train's controller (an actor) reserves the resources of the ranks as a placement group. Ray
removes the group when its creator and the creator's job are both dead, but the job is the complete
`gpt1 run`: after a controller's death the next attempt would wait forever. Ray Train has a cleaner
for this, which asks the dashboard; a run on one machine has none. Ray's public table of placement
groups does not say who created them, so this file reads the table behind it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.job_config import JobConfig
from ray.util.placement_group import PlacementGroup, remove_placement_group

TESTED = ("2.60.0",)
"""The versions of Ray with which tests/stages/test_ray_private.py has passed."""
INTERVAL = 2.0
"""Seconds between looks: a controller that was killed with its stage may die late."""


@contextlib.contextmanager
def placement_group_cleanup(info: Callable[[str], None]) -> Iterator[None]:
    """Remove this job's orphaned placement groups while the block runs and at its end.

    With a version of Ray that was not tested only `info` is called: training does not need it.
    """
    lacks = "if Ray Train's controller dies, its CPUs and GPUs stay reserved until the run ends"
    if warning := warning_if_untested(lacks):
        info(warning)
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(INTERVAL):
            with contextlib.suppress(Exception):  # of a cluster that does not answer now
                remove_orphaned_groups()

    watcher = threading.Thread(target=watch, name="placement groups", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        with contextlib.suppress(Exception):  # which would hide how the training ended
            remove_orphaned_groups()


def is_tested() -> bool:
    """Whether this version of Ray is one of TESTED; else nothing below may be called."""
    return ray.__version__ in TESTED


def warning_if_untested(lacks: str) -> str:
    """With a version of Ray that was not tested, a line that says so, and what it `lacks`."""
    if is_tested():
        return ""
    expected = " or ".join(TESTED)
    return f"warning: Ray {ray.__version__} is not tested, expected {expected}: {lacks}"


def resolve_address(address: str) -> str:
    """HOST:PORT of the control service that Ray connects to for an address: `auto`, or a name.

    OSError or ValueError where there is none.
    """
    from ray._private.services import canonicalize_bootstrap_address

    return str(canonicalize_bootstrap_address(address))


def has_node_here() -> bool:
    """Whether this machine runs a node of some cluster."""
    from ray._private.services import find_node_ids

    return bool(find_node_ids())


class OwnPathJobConfig(JobConfig):
    """Ray puts the driver's working directory first on the path of its workers, where any folder
    in it shadows a package of its name. This keeps `folder` alone, where the driver imports from
    it.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def _serialize(self) -> str:
        self._py_driver_sys_path = [
            path for path in self._py_driver_sys_path if path == self._folder and path in sys.path
        ]
        serialized: str = super()._serialize()
        return serialized


def remove_orphaned_groups() -> None:
    """Remove the placement groups of this job whose creator is dead, which ends what still runs in
    them.
    """
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    table: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # generated
    for row in state._connect_and_get_accessor().get_placement_group_table():
        group = table.FromString(row)
        orphaned = group.creator_actor_dead and group.creator_job_id == job
        if orphaned and group.state != table.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
