"""The namespaces themselves: hosts share the wire and nothing else, and nothing stays when they end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.host import Host, real_pid
from tests.cluster.network import Network
from tests.cluster.world import World, why_not
from tests.conftest import ROOT

SAY = "import socket; s = socket.create_server(('10.77.0.1', 7)); s.accept()[0].sendall(b'here')"
ASK = "import socket; s = socket.create_connection(('10.77.0.1', 7), timeout=3); print(s.recv(9))"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Network, Host, Host]]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    with World() as world:
        network = Network(world)
        first, second = (Host(world, f"h{n}", f"10.77.0.{n}", tmp_path, {}) for n in (1, 2))
        for host in (first, second):
            network.connect(host)
        yield network, first, second


def test_hosts_see_each_other_on_the_wire_only(pair: tuple[Network, Host, Host]) -> None:
    network, first, second = pair
    (first.folder / "disk").write_text("mine")
    assert first.run("cat", first.folder / "disk").stdout == "mine"
    assert second.run("cat", first.folder / "disk").returncode == 1
    assert second.run("hostname").stdout == "h2\n"
    assert second.run("ip", "-brief", "address").stdout.count("10.77.0.") == 1
    log = first.folder.parent / "log"
    server = first.start(log, sys.executable, "-c", SAY)
    deadline = time.monotonic() + 20
    while "here" not in (said := second.run(sys.executable, "-c", ASK)).stdout:
        assert time.monotonic() < deadline, said.stderr + log.read_text()
    assert server.wait(timeout=20) == 0
    server = first.start(log, sys.executable, "-c", SAY)
    real_pid(server)
    network.cut(second)
    assert second.run(sys.executable, "-c", ASK).returncode == 1
    network.mend(second)
    network.shape(second, 10)
    while "here" not in second.run(sys.executable, "-c", ASK).stdout:
        assert time.monotonic() < deadline + 40
    external_files = psutil.net_if_addrs()
    with second.network():
        assert {one.address for one in psutil.net_if_addrs()["eth0"]} >= {"10.77.0.2"}
    assert psutil.net_if_addrs() == external_files


def test_without_power_every_process_of_a_host_ends(pair: tuple[Network, Host, Host]) -> None:
    _, first, _ = pair
    log = first.folder.parent / "log"
    first.switch_on(log, "sh", "-c", "setsid sleep 4321 & setsid setsid sleep 4321 & wait")
    deadline = time.monotonic() + 20
    while sum("4321" in name for name in running(first)) < 2:
        assert time.monotonic() < deadline
    first.power_off()
    assert not [name for name in running(first) if "4321" in name]
    first.switch_on(log, "sleep", "1234")
    assert [name for name in running(first) if "1234" in name]


def running(host: Host) -> list[str]:
    return host.run("ps", "-A", "-o", "args=").stdout.splitlines()


def test_nothing_is_left_when_the_maker_is_killed(tmp_path: Path) -> None:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    maker = """
import sys, time
from pathlib import Path
from tests.cluster.host import Host
from tests.cluster.network import Network
from tests.cluster.world import World
with World() as world:
    network, host = Network(world), Host(world, "h1", "10.77.0.1", Path(sys.argv[1]), {})
    network.connect(host)
    host.switch_on(Path(sys.argv[1]) / "log", "sleep", "9999")
    print(host.holder, flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", maker, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout
    holder = psutil.Process(int(process.stdout.readline()))
    mine = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
    assert holder.pid in mine
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in mine):
        assert time.monotonic() < deadline
        time.sleep(0.05)
