"""The line that says why a cell failed."""

from typing import Any

import pytest
from ray import exceptions as ray
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from gpt1.errors import UserError
from pipeline.execution.causes import LESS, describe_failure, root_cause

WRONG = UserError("books: no such folder")
MONITOR = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP:"
    " 127.0.0.1, ID: bdde) was 3.35GB used / 23.54GB limit (0.142224)\nOOM kill reason: ..."
)


def in_task(error: Exception) -> Exception:
    return ray.RayTaskError("execute_cell", "Traceback ...", error, "title", 1, "127.0.0.1")


def in_rank(error: Exception) -> Exception:
    """As Ray Train wraps it."""
    ranks: Any = {1: ZeroDivisionError(), 0: UserExceptionWithTraceback(error, "Traceback ...")}
    return in_task(WorkerGroupError("[Rank 0 Error Snippet]:\n...", ranks))


KILLED = "its process was killed"
CAUSES: dict[str, tuple[Exception, str]] = {
    "a user's": (in_task(WRONG), "books: no such folder"),
    "a user's in a rank": (in_rank(WRONG), "books: no such folder"),
    "a rank's": (in_rank(OSError("two\nlines")), "OSError: two"),
    "no text": (in_task(KeyError()), "KeyError: KeyError"),
    "controller": (ControllerError(ValueError("no ranks")), "ValueError: no ranks"),
    "task killed": (ray.WorkerCrashedError(), KILLED),
    "rank killed": (WorkerGroupError("", {0: OSError(), 1: ray.ActorDiedError()}), KILLED),
    "node": (ray.NodeDiedError("a page"), "its node of the Ray cluster died or cannot be reached"),
    "memory": (
        in_rank(ray.OutOfMemoryError(MONITOR)),
        f"out of memory: Ray killed its process (the node used 3.35GB of 23.54GB); {LESS}",
    ),
}


@pytest.mark.parametrize("name", CAUSES)
def test_a_failure_is_its_cause_in_one_line(name: str) -> None:
    error, line = CAUSES[name]
    assert describe_failure(error) == line
    assert isinstance(root_cause(error), UserError) == name.startswith("a user's")
    if line == KILLED:
        said = describe_failure(error, ooms=1)
        assert said == f"out of memory: the kernel killed its process; {LESS}"
