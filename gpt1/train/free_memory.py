"""How much memory is left here: on the device, on the host, in the process's control group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on a CUDA device, or of a CPU's memory; None where the
    system does not say.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(
        [*_of_host(Path("/proc/meminfo")), *of_groups(Path("/proc/self/cgroup"), GROUPS)],
        default=None,
    )


def _of_host(file: Path) -> Iterator[int]:
    """What the kernel thinks can be had without swapping."""
    if file.is_file():
        yield from (
            int(line.split()[1]) * 1024
            for line in file.read_text().splitlines()
            if line.startswith("MemAvailable:")
        )


def of_groups(file: Path, groups: Path) -> Iterator[int]:
    """What is left in each control group that bounds this process (containers, Kubernetes, Slurm),
    by version 1 or 2.

    `file` names the process's groups (cgroups(7)), `groups` is where they are mounted. In a
    container a group's own name may lie outside of what is mounted; then the mounted root is the
    group.
    """
    if not file.is_file():
        return
    for line in file.read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, limit, used = groups, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, used = groups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = root / name.lstrip("/")
        for place in [folder, *folder.parents]:
            if (
                place.is_relative_to(root)
                and (place / limit).is_file()
                and (place / used).is_file()
            ):
                bound = (place / limit).read_text().strip()
                if bound.isdigit():
                    yield (
                        int(bound) - int((place / used).read_text()) + _cache(place / "memory.stat")
                    )


def _cache(file: Path) -> int:
    """Bytes of files in a group's memory that the kernel can drop."""
    if not file.is_file():
        return 0
    rows = dict(line.split() for line in file.read_text().splitlines())
    return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
