"""Which processes of a run listen where."""

import ipaddress
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import psutil


class Listener(NamedTuple):
    """A listening TCP socket: of which process, and whether on this machine's loopback alone."""

    process: str
    port: int
    loopback: bool


def environments(name: str, value: str) -> dict[psutil.Process, dict[str, str]]:
    """The processes that were started with this variable, and their environments."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (variables := process.environ()).get(name) == value:
                found[process] = variables
    return found


def listeners(processes: Iterable[psutil.Process]) -> set[Listener]:
    """Where these processes listen now."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            name = " ".join(process.cmdline())
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    address = ipaddress.ip_address(connection.laddr.ip)
                    mapped = getattr(address, "ipv4_mapped", None) or address
                    found.add(Listener(name, connection.laddr.port, mapped.is_loopback))
    return found
