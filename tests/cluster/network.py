"""The wire between the hosts of a world: a switch, and a link to each, to be cut or made slow."""

import subprocess

from tests.cluster.host import Host
from tests.cluster.world import World

NET = "10.77.0"
GATEWAY = f"{NET}.254"  # leads nowhere; programs find their own address by the way to a far one
IN_SWITCH = f"""
set -e
ip link set lo up
ip link add switch type bridge
ip address add {GATEWAY}/24 dev switch
ip link set switch up
echo ready
exec sleep infinity
"""


class Network:
    """A switch in a network namespace of its own, so that nothing of it is seen outside."""

    def __init__(self, world: World) -> None:
        words = ("unshare", "--net", "sh", "-c", IN_SWITCH)
        self._outer, self._holder = world.start("the switch", *words)

    def connect(self, host: Host) -> None:
        """Add a link to a host. On the host its end is called eth0."""
        name, ours = f"to-{host.name}", ("peer", "name", "eth0", "netns", str(host.holder))
        self._do("ip", "link", "add", name, "type", "veth", *ours)
        self._do("ip", "link", "set", name, "master", "switch", "up")
        self._on(host, "ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        self._on(host, "ip", "link", "set", "eth0", "up")
        self._on(host, "ip", "route", "add", "default", "via", GATEWAY)

    def set_link(self, host: Host, state: str) -> None:
        """`down`: nothing gets to the host or away from it; `up`: as it was."""
        self._do("ip", "link", "set", f"to-{host.name}", state)

    def shape(self, host: Host, megabits: float | None) -> None:
        """Bound the link in both directions (None: as fast as the kernel can)."""
        if megabits is None:
            self._do("tc", "qdisc", "del", "dev", f"to-{host.name}", "root")
            host.run("tc", "qdisc", "del", "dev", "eth0", "root")
            return
        # Less than TCP's 64 KiB: those are cut into frames with headers, as on a real wire.
        words = f"root tbf rate {megabits:g}mbit burst 60000 latency 100ms".split()
        self._do("tc", "qdisc", "replace", "dev", f"to-{host.name}", *words)
        self._on(host, "tc", "qdisc", "replace", "dev", "eth0", *words)

    @staticmethod
    def _on(host: Host, *command: str) -> None:
        done = host.run(*command)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def _do(self, *command: str) -> None:
        words = ["nsenter", f"--target={self._holder}", "--net", "--", *command]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
