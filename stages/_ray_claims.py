"""Release the CPUs and GPUs that a dead trainer still holds on a Ray cluster.

Ray Train reserves the resources of its ranks as a placement group, created by the trainer (the
actor TrainController). Ray removes such a group when its creator AND the creator's job are dead.
The job is the complete `gpt1 run`, so after a trainer's death the next attempt would wait forever
for resources that nothing uses. Ray Train starts a cleaner against this, but it asks the dashboard
whether the trainer is alive, and a run on one machine has no dashboard.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

EVERY = 2.0  # seconds


def release_claims() -> list[str]:
    """Remove this job's placement groups whose maker is dead, which ends what still runs in them;
    returns their ids.

    Other jobs' groups are left alone, and so are those of trainers that live.
    """
    import ray
    from ray._private.state import state  # the public table leaves out who made a group
    from ray.core.generated import gcs_pb2
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    ours = bytes.fromhex(ray.get_runtime_context().get_job_id())
    kind: Any = gcs_pb2  # generated code, without types
    table, released = kind.PlacementGroupTableData, []
    for raw in state._connect_and_get_accessor().get_placement_group_table():
        group = table.FromString(raw)
        if (
            group.state == table.REMOVED
            or not group.creator_actor_dead
            or group.creator_job_id != ours
        ):
            continue
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
        released.append(group.placement_group_id.hex())
    return released


@contextlib.contextmanager
def claims_released() -> Iterator[None]:
    """Release claims now, every few seconds while the block runs (the trainer before may die
    late), and at its end.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            release_claims()

    release_claims()
    watcher = threading.Thread(target=watch, name="claims", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        release_claims()
