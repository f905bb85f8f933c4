"""A TCP proxy that makes a server far away: data is delayed, or held back for a while."""

from __future__ import annotations

import asyncio
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Passes on what comes to its address; `delay` seconds in each direction together."""

    def __init__(self, target: str, delay: float) -> None:
        self._target, self.delay = urlsplit(target), delay
        self.loop, self._open, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
        threading.Thread(target=lambda: self._run(ready), daemon=True).start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        self._open.set()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=128)
        server = self.loop.run_until_complete(serving)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        self.loop.run_forever()

    def pause(self, seconds: float) -> None:
        """Hold everything back for a while, without breaking a connection."""
        self.loop.call_soon_threadsafe(self._open.clear)
        self.loop.call_soon_threadsafe(self.loop.call_later, seconds, self._open.set)

    async def _serve(self, source: StreamReader, back: StreamWriter) -> None:
        with suppress(OSError):
            host, port = self._target.hostname, self._target.port
            answers, target = await asyncio.open_connection(host, port)
            await asyncio.gather(self._pass(source, target), self._pass(answers, back))
            target.close()
        back.close()

    async def _pass(self, source: StreamReader, target: StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                await asyncio.sleep(self.delay / 2)
                await self._open.wait()
                target.write(data)
                await target.drain()
            target.write_eof()


@contextmanager
def proxied(target: str, delay: float = 0.0) -> Iterator[Proxy]:
    """A proxy before the server at an address, for as long as the block lasts."""
    proxy = Proxy(target, delay)
    try:
        yield proxy
    finally:
        proxy.loop.call_soon_threadsafe(proxy.loop.stop)
