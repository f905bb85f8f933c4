"""What Ray's public calls cannot do: free the CPUs and GPUs that a dead trainer still reserves.

Ray Train's controller (an actor) reserves the resources of the ranks as a placement group. Ray
removes the group when its creator and the creator's job are both dead, but the job is the complete
`gpt1 run`: after a controller's death the next attempt would wait forever. Ray Train has a cleaner
for this, which asks the dashboard; a run on one machine has none. Ray's public table of placement
groups does not say who created them, so this file reads the table behind it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
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
    if ray.__version__ not in TESTED:
        info(
            f"warning: Ray {ray.__version__} is not tested, expected {' or '.join(TESTED)}: if Ray"
            " Train's controller dies, its CPUs and GPUs stay reserved until the run ends"
        )
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
