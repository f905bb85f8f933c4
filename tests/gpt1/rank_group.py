"""Ranks that stay: processes of one group that call functions of the tests, as often as asked."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class RankError(Exception):
    """What a rank raised; `args` has a text for each rank, empty where it raised nothing."""


class RankGroup:
    """`world` processes that join one group, on a CPU with one thread each."""

    def __init__(self, world: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        spawn = multiprocessing.get_context("spawn")
        pipes = [spawn.Pipe() for _ in range(world)]
        self._ends = [here for here, _ in pipes]
        given = [(there, rank, world, port) for rank, (_, there) in enumerate(pipes)]
        self.processes = [spawn.Process(target=_serve, args=each, daemon=True) for each in given]
        for process in self.processes:
            process.start()

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let all ranks call a function that a module of the tests or of the project has."""
        for end in self._ends:
            end.send((function, arguments))

    def results(self) -> list[Any]:
        """What they returned, by rank. Raises RankError."""
        answers = [end.recv() for end in self._ends]
        if any(error for _, error in answers):
            raise RankError(*(error for _, error in answers))
        return [value for value, _ in answers]

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`begin` and `results`."""
        self.begin(function, *arguments)
        return self.results()

    def kill(self) -> None:
        """End them all."""
        for process in self.processes:
            process.kill()
            process.join()


def _serve(pipe: Connection, rank: int, world: int, port: int) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    names |= {"MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((function(*arguments), ""))
        except Exception as error:
            pipe.send((None, f"{type(error).__name__}: {error}"))
