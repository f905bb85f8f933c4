"""Placement groups that outlive their creator: that Ray leaves them, and that we remove them."""

from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table

from pipeline.execution.ray_access import prepare
from stages._ray_private import placement_group_cleanup, remove_orphaned_groups
from tests.cluster.cluster import wait
from tests.servers.ray_cluster import Cluster


class Creator:
    """An actor that reserves resources, as Ray Train's controller does."""

    def reserve(self) -> str:
        return placement_group([{"CPU": 0.1}]).id.hex()


@pytest.mark.slow
def test_only_the_groups_of_the_dead_are_removed(ray_head: Cluster) -> None:
    def state(group: str) -> str:
        return str(placement_group_table()[group]["state"])

    ray.init(address=ray_head.gcs, log_to_driver=False)
    try:
        kind: Any = ray.remote(num_cpus=0)(Creator)
        dead, alive = kind.remote(), kind.remote()
        orphan, kept = ray.get([dead.reserve.remote(), alive.reserve.remote()])
        wait(lambda: state(orphan) == state(kept) == "CREATED", "both groups", 60)
        ray.kill(dead)
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(dead.reserve.remote())
        remove_orphaned_groups()
        wait(lambda: state(orphan) == "REMOVED", "the removal", 60)
        assert state(kept) == "CREATED"
    finally:
        ray.shutdown()


def test_another_version_of_ray_is_named_and_nothing_is_removed_or_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "__version__", "9.9")
    assert prepare("127.0.0.1:1") == "127.0.0.1:1"
    lines: list[str] = []
    with placement_group_cleanup(lines.append):
        assert not ray.is_initialized()  # or it would ask for the table
    lines += capsys.readouterr().err.splitlines()
    named = [line.startswith("warning: Ray 9.9 is not tested, expected 2.60.0: ") for line in lines]
    assert named == [True, True]
