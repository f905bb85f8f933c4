"""The command line in this process: a run on the session's cluster takes 3 seconds this way."""

import contextlib
import io
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.cli import main as cli
from pipeline.execution.shutdown import SIGNALS
from pipeline.store import cache
from pipeline.workflow import user_code
from tests.servers.ray_cluster import Cluster


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """What a command with --json printed, after it ended well."""
        assert self.status == 0, self.out + self.err
        return json.loads(self.out)


def gpt1(
    *words: object, cluster: Cluster | None = None, cwd: Path | None = None, **environment: str
) -> Ended:
    """Run `gpt1 WORDS`, on `cluster` where it is given. An error that is no user's is raised.

    What a library read from the environment when it was imported stays as it was then, and workers
    have the environment of their cluster.
    """
    address = ("--address", cluster.gcs) if cluster else ()
    out, err = io.StringIO(), io.StringIO()
    to = (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err))
    cache._checked.clear()  # what another process has checked
    with _process_restored(), contextlib.chdir(cwd or Path.cwd()), to[0], to[1]:
        # Ray reads this variable once, and the session's cluster asks for no token.
        os.environ.update({"RAY_AUTH_MODE": "disabled", **environment})
        sys.argv = ["gpt1", *map(str, words), *address]
        status: Any = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code or 0
        finally:
            if "ray" in sys.modules:
                sys.modules["ray"].shutdown()
    return Ended(status, out.getvalue(), err.getvalue())


def said(*words: object, **options: Any) -> str:
    """Run what must end well; what it prints."""
    ended = gpt1(*words, **options)
    assert ended.status == 0, ended
    return ended.out


def refused(message: str, *words: object, **options: Any) -> str:
    """Run what is a user's mistake, of which `message` (an expression) must be said; what is."""
    ended = gpt1(*words, **options)
    assert (ended.status, bool(re.search(message, ended.err))) == (2, True), ended
    return ended.err


@contextlib.contextmanager
def _process_restored() -> Iterator[None]:
    """Put back, in the end, what a command changes of its process."""
    handlers = {name: signal.getsignal(name) for name in SIGNALS}
    environment, path, code = dict(os.environ), list(sys.path), user_code.installed()
    words, hook, top = sys.argv, sys.excepthook, sys.modules["__main__"]
    # Click would call us "python -m pytest" in what it prints.
    package, top.__package__ = top.__package__, None
    try:
        yield
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv, sys.excepthook, sys.path[:], top.__package__ = words, hook, path, package
        user_code.install(code)
