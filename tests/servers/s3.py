"""moto's S3 server, in memory: `python -m tests.servers.s3 PORT [HOST]`. Ends with SIGTERM.

moto looks, then writes, when it is asked to write if there is nothing: two such requests at once
could both win, which S3 excludes. Here they come one after another.
"""

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
    from moto.moto_server import werkzeug_app as moto
    from werkzeug.serving import make_server

    class Handler(moto.MotoRequestHandler):
        protocol_version = "HTTP/1.1"  # connections that stay open, as S3's do

        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: ARG002
            return

    application = one_at_a_time(moto.DomainDispatcherApplication(moto.create_backend_app))
    port, host = int(sys.argv[1]), (*sys.argv[2:], "127.0.0.1")[0]
    make_server(host, port, application, threaded=True, request_handler=Handler).serve_forever()


if __name__ == "__main__":
    main()
