"""moto's S3 server, in memory: `python -m tests.servers.s3 PORT [HOST]`. Ends with SIGTERM.

moto looks, then writes, when it is asked to write if there is nothing: two such requests at once could both win, which S3 excludes.
Here they come one after another.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any


def one_at_a_time(application: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    """The application, with its conditional requests one after another."""
    lock = threading.Lock()

    def guarded(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        if environ.get("HTTP_IF_NONE_MATCH") or environ.get("HTTP_IF_MATCH"):
            with lock:
                return list(application(environ, start))
        return application(environ, start)

    return guarded


def main() -> None:
    """Serve until the process is ended."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class Handler(MotoRequestHandler):
        protocol_version = "HTTP/1.1"  # connections that stay open, as S3's do

        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: ARG002
            return

    application: Any = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    make_server(host, int(sys.argv[1]), application, threaded=True, request_handler=Handler).serve_forever()


if __name__ == "__main__":
    main()
