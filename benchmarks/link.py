"""The traffic of benchmarks/scaling.py against two ranks on two hosts (network namespaces)
whose link is bounded with `tc`.

    python benchmarks/link.py [--quick]        needs root and iproute2

Bytes: what leaves a host in an update, by its counter, against `sent_bytes` with HEADERS; without
them at full speed, where the kernel passes pieces of 64 KiB that are never cut into segments. Time:
an update at each rate against the time at full speed (which stands for computing) and those bytes
at that rate. Prints a table and, last, one JSON object; status 1 when a byte count is off by more
than 2 %, or a time by more than 25 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.link_rank import SHAPE
from benchmarks.scaling import HEADERS, sent_bytes
from tests.cluster.host import Host
from tests.cluster.network import NET, Network
from tests.cluster.world import World, why_not

RATES = (500.0, 200.0, 100.0)  # megabits a second
BARS = {"bytes": 0.02, "time": 0.25}


def measure(hosts: list[Host], stage: int, updates: int, port: int) -> dict[str, float]:
    """Seconds of an update, and bytes a host sent in it (the larger of the two)."""
    command = [sys.executable, "-m", "benchmarks.link_rank", str(stage), str(updates)]
    started = []
    for rank, host in enumerate(hosts):
        about = {
            "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(hosts)),
            "MASTER_ADDR": hosts[0].address, "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "eth0",
        }  # fmt: skip
        words, variables = host.words(*command), {**host.environment, **about}
        started.append(
            subprocess.Popen(
                words, cwd=host.folder, env=variables, stdout=subprocess.PIPE, text=True
            )
        )
    said = [process.communicate(timeout=600)[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"a rank ended with {[process.returncode for process in started]}")
    found: list[dict[str, Any]] = [json.loads(text.splitlines()[-1]) for text in said]
    return {name: max(one[name] for one in found) for name in ("seconds", "sent")}


def main() -> int:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one rate, ZeRO 1")
    given = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    plan = [(1, RATES[1:2])] if given.quick else [(1, RATES), (0, RATES[1:2])]
    rows, port = [], 29600
    print(f"{SHAPE.parameters():,} parameters in fp32, two ranks")
    print(
        "| ZeRO | link, Mbit/s | sent, MB | by the formula | error | an update, s | by the formula"
        " | error |"
    )
    print("|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpt1-link-") as name, World() as world:
        network = Network(world)
        hosts = [Host(world, f"rank{n}", f"{NET}.{n + 1}", Path(name), {}) for n in range(2)]
        for host in hosts:
            network.connect(host)
        for stage, rates in plan:
            payload = sent_bytes(SHAPE.parameters(), 2, stage, bf16=False)
            full = None
            for rate in (None, *rates):
                if rate is not None:
                    network.shape(hosts[0], rate)
                port += 1
                seen = measure(hosts, stage, updates=20 if rate is None else 5, port=port)
                full = full or seen["seconds"]
                wanted = payload * (HEADERS if rate else 1.0)
                expected = full + (wanted * 8 / (rate * 1e6) if rate else 0.0)
                row = {
                    "zero": stage, "rate": rate, **seen, "wanted": wanted, "expected": expected,
                    "bytes": seen["sent"] / wanted - 1, "time": seen["seconds"] / expected - 1,
                }  # fmt: skip
                rows.append(row)
                print(
                    f"| {stage} | {rate or 'full'} | {seen['sent'] / 1e6:.2f} | {wanted / 1e6:.2f}"
                    f" | {row['bytes']:+.1%} | {seen['seconds']:.3f} | {expected:.3f} |"
                    f" {row['time']:+.1%} |",
                    flush=True,
                )
            network.shape(hosts[0], None)
    worst = {name: max(abs(float(row[name] or 0.0)) for row in rows) for name in BARS}
    passed = all(worst[name] <= bar for name, bar in BARS.items())
    print(
        json.dumps(
            {"quick": given.quick, "worst": worst, "bars": BARS, "passed": passed, "rows": rows}
        )
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
