"""Estimate what many devices cost on top of compute: traffic, checkpoints and data.

See docs/explanation/training.md.

python -m gpt1.train.estimate --device H100 --ranks 1,8,64 --link 100
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.command_numbers import positive_float, positive_int, positive_ints
from gpt1.train.describe import DEFAULT_MFU, expected_seconds

HEADERS = 1.045
"""Bytes on the wire for each byte sent: Ethernet, IP and TCP headers of 1,448-byte segments (66
bytes each).
"""


@dataclass(frozen=True)
class Update:
    """Seconds of one update on each rank.

    `traffic` is not hidden behind `compute`: what overlaps makes an update faster.
    """

    compute: float
    traffic: float

    @property
    def seconds(self) -> float:
        """The whole update."""
        return self.compute + self.traffic


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


def update(
    model: ModelConfig, *, batch: int, ranks: int, device: str, gigabits: float, zero: int = 1,
    bf16: bool = True, mfu: float = DEFAULT_MFU,
) -> Update:
    """One update of `batch` windows on `ranks` devices of that name, between which `gigabits` a
    second can pass in each direction.

    Where a host has many devices, that is the rate of its link to the others: a ring crosses it
    once. UserError: see `sent_bytes`; a device whose peak is not known.
    """
    sent = sent_bytes(model.parameters(), ranks, zero, bf16)
    compute = expected_seconds(model, batch * model.context, device, ranks, mfu)
    return Update(compute, HEADERS * sent * 8 / (gigabits * 1e9))


def checkpoint_bytes(parameters: int) -> int:
    """Bytes of a checkpoint: weights and two moments in fp32."""
    return 12 * parameters


def data_bytes(tokens: int, vocabulary: int) -> int:
    """Bytes of token shards that each host fetches, once."""
    return tokens * (2 if vocabulary <= 1 << 16 else 4)


def table(given: argparse.Namespace) -> str:
    """Markdown: a row for each number of devices, of the paper's model in bf16 on ZeRO 1.

    UserError: see `update`.
    """
    model = ModelConfig()
    names = (
        "devices", "compute, ms per step", "sent, MB", "traffic, ms", "compute share",
        "total days",
    )
    lines = [f"| {' | '.join(names)} |", "|--:" * len(names) + "|"]
    for count in given.ranks:
        gigabits = given.inside if count <= given.a_host else given.link
        one = update(
            model, batch=given.batch, ranks=count, device=given.device, gigabits=gigabits,
            mfu=given.mfu,
        )
        sent = sent_bytes(model.parameters(), count, 1, bf16=True)
        lines.append(
            f"| {count} | {one.compute * 1e3:.1f} | {sent / 1e6:.0f} | {one.traffic * 1e3:.1f} |"
            f" {one.compute / one.seconds:.0%} | {one.seconds * given.steps / 86400:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="H100", help="device name")
    parser.add_argument(
        "--mfu", type=positive_float, default=DEFAULT_MFU,
        help="model FLOPs utilization: the share of the device's peak that is reached",
    )
    parser.add_argument("--ranks", type=positive_ints, default="1,8,64", help="device counts")
    parser.add_argument("--a-host", type=positive_int, default=8, help="devices per host")
    parser.add_argument(
        "--inside", type=positive_float, default=3600.0,
        help="Gbit/s between the devices of a host",
    )
    parser.add_argument(
        "--link", type=positive_float, default=100.0, help="Gbit/s between hosts"
    )
    parser.add_argument("--batch", type=positive_int, default=64)
    parser.add_argument("--steps", type=positive_int, default=1_000_000)
    try:
        print(table(parser.parse_args()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"a checkpoint takes {checkpoint_bytes(ModelConfig().parameters()) / 1e9:.1f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
