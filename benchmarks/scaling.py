"""What many devices cost on top of computing: a table for the paper's model in bf16 on ZeRO 1.

    python benchmarks/scaling.py --device H100 --ranks 1 8 64 --link 100

An estimate: FLOPs by devices and the share of their peak, and the bytes that a ring of them sends,
which benchmarks/link.py measures. What overlaps makes a step faster.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.cost_model import DEFAULT_MFU, expected_seconds

HEADERS = 1.045
"""Bytes on the wire for each byte sent: Ethernet, IP and TCP headers of 1,448-byte segments (66
bytes each).
"""


def sent_bytes(parameters: int, ranks: int, zero: int, bf16: bool) -> float:
    """Bytes that each rank sends (and receives) in one update, headers not counted.

    Around a ring of n ranks a sum of all gradients sends 2(n-1)/n of their size, and a gathering of
    all weights (n-1)/n. ZeRO 0 does the first. DeepSpeed's ZeRO 1 sums once an update and then
    gathers: 3(n-1)/n. UserError for stages 2 and 3, whose traffic grows with the micro-batches and
    was not measured.
    """
    if zero not in (0, 1):
        raise UserError(f"zero: there is no estimate for stage {zero}; expected 0 or 1")
    size = parameters * (2 if bf16 and zero else 4)
    return (2 + zero) * (ranks - 1) / ranks * size


def traffic_seconds(
    parameters: int, ranks: int, gigabits: float, zero: int = 1, bf16: bool = True
) -> float:
    """The time of one update's traffic where `gigabits` a second pass in each direction.

    Where a host has many devices, that is the rate of its link to the others: a ring crosses it
    once. It comes on top of computing: what overlaps makes an update faster. UserError: see
    `sent_bytes`.
    """
    return HEADERS * sent_bytes(parameters, ranks, zero, bf16) * 8 / (gigabits * 1e9)


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """A type of argparse: a number of that kind above 0."""

    def parse(text: str) -> float:
        number = kind(text)
        if not 0 < number < float("inf"):
            raise ValueError
        return number

    parse.__name__ = f"positive {getattr(kind, '__name__', 'number')}"
    return parse


def table(given: argparse.Namespace) -> str:
    """Markdown: a row for each number of devices, of the paper's model in bf16 on ZeRO 1.

    UserError for a device whose peak is not known.
    """
    model = ModelConfig()
    lines = [
        "| devices | compute, ms per step | sent, MB | traffic, ms | compute share | total days |",
        "|--:" * 6 + "|",
    ]
    tokens = given.batch * model.context
    for count in given.ranks:
        compute = expected_seconds(model, tokens, given.device, count, given.mfu)
        gigabits = given.inside if count <= given.a_host else given.link
        traffic = traffic_seconds(model.parameters(), count, gigabits)
        sent = sent_bytes(model.parameters(), count, 1, bf16=True)
        lines.append(
            f"| {count} | {compute * 1e3:.1f} | {sent / 1e6:.0f} | {traffic * 1e3:.1f} |"
            f" {compute / (compute + traffic):.0%} |"
            f" {(compute + traffic) * given.steps / 86400:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    above_0, whole = positive(float), positive(int)
    parser.add_argument("--device", default="H100", help="device name")
    parser.add_argument("--mfu", type=above_0, default=DEFAULT_MFU, help="share of the bf16 peak")
    parser.add_argument("--ranks", type=whole, nargs="+", default=[1, 8, 64], help="devices")
    parser.add_argument("--a-host", type=whole, default=8, help="devices per host")
    parser.add_argument("--inside", type=above_0, default=3600.0, help="Gbit/s within a host")
    parser.add_argument("--link", type=above_0, default=100.0, help="Gbit/s between hosts")
    parser.add_argument("--batch", type=whole, default=64, help="sequences per step")
    parser.add_argument("--steps", type=whole, default=1_000_000)
    try:
        print(table(parser.parse_args()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
