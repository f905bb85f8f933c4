"""Why a cell failed, in one line: Ray wraps what happened, and leaves out what killed a process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ray import exceptions as ray

from gpt1.errors import UserError
from gpt1.terminal import one_line

CGROUPS = "/sys/fs/cgroup{0}/memory.events", "/sys/fs/cgroup/memory{0}/memory.oom_control"
"""Of both versions of control groups, with a count `oom_kill`."""
LESS = "run fewer jobs at once (resources.cpus), smaller batches, or use a larger machine"
DIED = ray.OutOfMemoryError, ray.WorkerCrashedError, ray.RayActorError, ray.NodeDiedError


def root_cause(error: BaseException) -> BaseException:
    """The error inside what Ray and Ray Train wrap around it."""
    while True:
        inner = (
            getattr(error, "cause", None)  # RayTaskError
            or _of_ranks(getattr(error, "worker_failures", {}))  # WorkerGroupError
            or getattr(error, "controller_failure", None)
            or getattr(error, "health_check_failure", None)
            or getattr(error, "_base_exc", None)  # UserExceptionWithTraceback
        )
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _of_ranks(failures: Mapping[int, Exception]) -> BaseException | None:
    """The error of the first rank that died, which the others fail for want of, or else of the
    first one.
    """
    causes = [root_cause(failures[rank]) for rank in sorted(failures)]
    return next((one for one in causes if isinstance(one, DIED)), causes[0] if causes else None)


def describe_failure(error: BaseException, ooms: int = 0) -> str:
    """One line about a failure. `ooms`: how many processes the kernel has killed for lack of memory
    since the run began, in the driver's container.
    """
    cause = root_cause(error)
    if isinstance(cause, UserError):
        return str(cause)
    if isinstance(cause, ray.OutOfMemoryError):
        used = re.search(r"was (\S+) used / (\S+) limit", str(cause))
        share = f" (the node used {used[1]} of {used[2]})" if used else ""
        return f"out of memory: Ray killed its process{share}; {LESS}"
    killed = isinstance(cause, ray.WorkerCrashedError | ray.RayActorError)
    if killed and ooms:
        return f"out of memory: the kernel killed its process; {LESS}"
    if killed:
        return "its process was killed"
    if isinstance(cause, ray.NodeDiedError | ray.LocalRayletDiedError):
        return "its node of the Ray cluster died or cannot be reached"
    first = str(cause).strip().partition("\n")[0]
    return f"{type(cause).__name__}: {one_line(first or type(cause).__name__)}"


def oom_kills() -> int:
    """How many processes of this process's control group the kernel has killed for lack of
    memory.
    """
    with suppress(OSError):
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        own = {"": "", **{line.split(":")[1]: line.split(":")[2] for line in groups}}
        for form, kind in zip(CGROUPS, ("", "memory"), strict=True):
            for group in (own.get(kind, "").rstrip("/"), ""):  # a container sees its own as the top
                with suppress(OSError):
                    text = Path(form.format(group)).read_text()
                    if found := re.search(r"^oom_kill (\d+)", text, re.MULTILINE):
                        return int(found[1])
    return 0
