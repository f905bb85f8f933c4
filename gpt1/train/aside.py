"""Work beside the training: one thread, one piece of work at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Aside:
    """Runs one piece of work in a thread.

    What it raises is raised by the next `wait`, in the thread that waits.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def begin(self, work: Callable[[], None]) -> None:
        """Start `work`, after the work before it has ended."""
        self.wait()
        # a daemon: a process that is told to end does not stay for a checkpoint that other ranks
        # will never complete
        self._thread = threading.Thread(target=self._run, args=(work,), name=self.name, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the work begun last, and raise what it raised."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # handed on by wait
            self._error = error
