"""What a training costs: parameters and FLOPs by part, memory of a rank, time on devices, and
traffic between hosts. `gpt1 describe` prints the forecast for a workflow.

The paper's model on many devices, as a table (docs/explanation/training.md):

python -m gpt1.train.cost_model --device H100 --ranks 1,8,64 --link 100
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.wording import span

# Dense bf16 and fp32 peaks in TFLOP/s by what the device's name contains, from the makers' data
# sheets; the first that fits counts. fp32 is without TF32, which training does not use.
PEAK_TFLOPS = {
    "B200": (2250.0, 75.0), "GH200": (989.0, 67.0), "H200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0), "H100 NVL": (835.0, 60.0), "H100": (989.0, 67.0),
    "H800": (989.0, 67.0), "A100": (312.0, 19.5), "A800": (312.0, 19.5), "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3), "A10G": (70.0, 31.5), "RTX 4090": (165.0, 82.6), "RTX 3090": (71.0, 35.6),
}  # fmt: skip
DEFAULT_MFU = 0.4
"""Share of the peak assumed where none is given."""
BUCKET, LIVE = 500_000_000, 1_000_000_000
"""Parameters: DeepSpeed's defaults of reduce_bucket_size and stage3_max_live_parameters."""
HEADERS = 1.045
"""Bytes on the wire for each byte sent: Ethernet, IP and TCP headers of 1,448-byte segments (66
bytes each).
"""


@dataclass(frozen=True)
class Part:
    """A part of the model: its parameters and the FLOPs of training on one token (forward and
    backward).
    """

    name: str
    parameters: int
    flops: float


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank at the peak, during an update after the first (see `memory`).

    `activations` are what blocks keep for the backward pass and the working space of one of them,
    `logits` all tables of logits and their gradients.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class Device:
    """A kind of device, and the share of its peak in the training's precision that is reached."""

    name: str
    mfu: float = DEFAULT_MFU


@dataclass(frozen=True)
class Forecast:
    """What a training will need.

    `epochs` is None where the corpus is not known, `seconds` where no device is named.
    """

    parts: Sequence[Part]
    memory: Memory
    parameters: int
    flops_per_token: float
    steps: int
    batch: int
    context: int
    ranks: int
    precision: str
    corpus_tokens: int | None = None
    device: Device | None = None
    seconds: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens trained on, each as often as it is seen."""
        return self.steps * self.batch * self.context

    @property
    def epochs(self) -> float | None:
        """How often the corpus is seen."""
        return self.tokens / self.corpus_tokens if self.corpus_tokens else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; memory in bytes, FLOPs of one token."""
        return {
            **asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total},
            "tokens": self.tokens, "epochs": self.epochs,
            "flops": self.tokens * self.flops_per_token,
        }

    def __str__(self) -> str:
        total = Part("total", self.parameters, self.flops_per_token)
        lines = [f"{'part':<34}{'parameters':>14}{'MFLOPs per token':>18}"]
        for part in (*self.parts, total):
            lines.append(f"{part.name:<34}{part.parameters:>14,}{part.flops / 1e6:>18,.1f}")
        shown = ", ".join(f"{name} {size(value)}" for name, value in asdict(self.memory).items())
        lines.append(f"memory per rank (estimated): {size(self.memory.total)} = {shown}")
        seen = f", {self.epochs:,.2f} epochs of {self.corpus_tokens:,}" if self.epochs else ""
        lines.append(
            f"{self.steps:,} steps of {self.batch} x {self.context} tokens: {self.tokens:,}"
            f" tokens{seen}"
        )
        if self.device and self.seconds is not None:
            share = f"{self.device.mfu:.0%} of the {self.precision} peak"
            where = f"{self.ranks} x {self.device.name} at {share}"
            lines.append(f"expected time on {where}: {span(self.seconds)}")
        return "\n".join(lines)


def describe(
    model: ModelConfig, *, batch: int, micro_batch: int, steps: int, ranks: int = 1, zero: int = 1,
    bf16: bool = True, recompute: bool = False, loss_chunk: int = 0, cpu: bool = False,
    corpus_tokens: int | None = None, device: Device | None = None,
) -> Forecast:
    """All of it. UserError for a device whose peak is not known."""
    need = memory(
        model, micro_batch=micro_batch, ranks=ranks, zero=zero, bf16=bf16, recompute=recompute,
        loss_chunk=loss_chunk, cpu=cpu,
    )  # fmt: skip
    tokens = steps * batch * model.context
    seconds = (
        expected_seconds(model, tokens, device.name, ranks, device.mfu, bf16) if device else None
    )
    return Forecast(
        parts(model), need, model.parameters(), model.flops_per_token(), steps, batch,
        model.context, ranks, "bf16" if bf16 else "fp32", corpus_tokens, device, seconds,
    )  # fmt: skip


# Parts and FLOPs


def parts(model: ModelConfig, length: int | None = None) -> list[Part]:
    """The parts, whose parameters and FLOPs add up to `parameters()` and `flops_per_token()`.

    The usual estimate counts 6 FLOPs a parameter, also of position rows, which are in no product,
    so that the sum is ModelConfig's.
    """
    blocks = model.layers * model.block_parameters()
    tokens, positions = model.rows * model.width, model.context * model.width
    attention = model.flops_per_token(length) - 6 * model.parameters()
    kind = "block" if model.kind == "gpt" else "LSTM layer"
    return [
        Part("token rows and softmax (tied)", tokens, 6.0 * tokens),
        Part("position rows", positions, 6.0 * positions),
        Part(f"{model.layers} x {kind}", blocks, 6.0 * blocks),
        Part("attention scores", 0, attention),
    ]


# Memory of a rank


def memory(
    model: ModelConfig, *, micro_batch: int, ranks: int, zero: int, bf16: bool,
    recompute: bool = False, loss_chunk: int = 0, cpu: bool = False,
) -> Memory:
    """Bytes on each of `ranks` under ZeRO stage `zero`, on a GPU or a `cpu`.

    The sum of what is allocated, each in its largest form. On a GPU freed memory is used again
    before the peak. On a CPU it stays with the process (`gpt1.train.engine.keep_freed_memory`),
    and glibc 2.36 gives an aligned block only out of a larger one, so a freed block does not serve
    the next of its own size: tables that are never alive together count, too.
    benchmarks/memory.py measures this.
    """
    count, kept = model.parameters(), 2 if bf16 else 4
    rows, positions = model.rows * model.width, micro_batch * model.context
    states = _states(count, ranks, zero, bf16, cpu)
    # Without ZeRO bf16 is an autocast, which copies the matrices; recomputation those of a block.
    copies = 2 * (rows if recompute else count) if bf16 and not zero else 0
    block = positions * _kept_by_block(model, kept, cpu)
    stream = positions * model.width * kept  # what goes from block to block
    # The backward pass of a block makes a gradient for each tensor that it kept, but for the
    # workspace of oneDNN's LSTM. With recomputation the first pass has such tables, too.
    passing = block if model.kind == "gpt" else block - positions * 15 * model.units * kept
    working = passing * (2 if recompute else 1) if cpu else 0
    # With recomputation the input of each block, and one block at a time.
    blocks = model.layers * stream + block if recompute else model.layers * block
    embedding = stream + positions * model.width * (4 if cpu else 1)  # the noise of its dropout
    if model.embedding_dropout == "matrix":  # the noise and the product are as large as the rows
        embedding += (rows + model.context * model.width) * (4 + (4 if cpu else 1))
    # The tied rows get a gradient as softmax and one as embedding, and then their sum.
    gradients = states["gradients"] + 4 * rows
    return Memory(
        weights=states["weights"] + copies, gradients=gradients, optimizer=states["optimizer"],
        activations=blocks + embedding + working,
        logits=_logits(model, positions, loss_chunk, kept, cpu),
    )


def _states(count: int, ranks: int, zero: int, bf16: bool, cpu: bool) -> dict[str, int]:
    """Bytes of weights, gradients and optimizer.

    With ZeRO, DeepSpeed's ranks reduce gradients from a copy, BUCKET parameters at a time, for
    which gloo, between CPUs, has another. They have fp32 masters and gradients beside Adam's two
    moments, and bf16 weights. ZeRO 3 gathers up to LIVE weights and keeps them, on CPUs beside the
    complete weights that it began with and gloo's copy of what it gathers.
    """
    size = 2 if bf16 and zero else 4
    weights = size * count
    if zero == 3:
        weights = size * (count // ranks + min(count, LIVE) + (2 * count if cpu else 0))
    copies = 2 if cpu and ranks > 1 else 1
    copied = (copies if zero else 0) * size * min(count, BUCKET)
    return {
        "weights": weights,
        "gradients": count * size // (ranks if zero >= 2 else 1) + copied,
        "optimizer": 16 * count // ranks if zero else 8 * count,
    }


def _kept_by_block(model: ModelConfig, kept: int, cpu: bool) -> int:
    """Bytes that one block keeps for the backward pass, for a position: of width C the block's
    input, q, k, v, what attention gives, both sums before a layer norm and the first norm, and of
    4 C the two of the MLP: 16 C.

    Dropout keeps its noise, twice C: on CPUs in the type of the products, on GPUs as a byte. CPUs
    have no fused attention with dropout: they keep three tables of T a head (the probabilities, the
    noise, their product).
    """
    if model.kind == "lstm":
        # cuDNN keeps the gates and the states; oneDNN has a workspace of 15 U, and two outputs.
        units = 17 * model.units + 4 * model.width if cpu else 6 * model.units + 2 * model.width
        return units * kept
    if not model.dropout:
        return 16 * model.width * kept
    if not cpu:
        return 16 * model.width * kept + 2 * model.width
    return (18 * model.width + 3 * model.heads * model.context) * kept


def _logits(model: ModelConfig, positions: int, loss_chunk: int, kept: int, cpu: bool) -> int:
    """Bytes of the loss: tables of logits, and with chunks what the chunks share.

    All positions at a time: fp32 log-probabilities and two gradients of their size. Chunks: fp32
    logits and their gradient (chunked_loss.py). On a CPU one table more, which is freed before the
    peak: the logits, or with chunks an intermediate of logsumexp. bf16 tables are half as large:
    on a CPU they fit into freed blocks, on a GPU chunks have two of them at the peak.
    """
    if not loss_chunk:
        return positions * model.rows * (16 if cpu else 12)
    tables = 12 if cpu or kept == 2 else 8
    # The gradient of the rows: the sum over chunks, one chunk's, and with bf16 cast rows.
    rows = model.rows * model.width * (4 + kept + (2 if kept == 2 else 0))
    hidden = 2 * positions * model.width * kept  # the gradient, and what it is scaled to
    return min(loss_chunk, positions) * model.rows * tables + rows + hidden


def checkpoint_bytes(parameters: int) -> int:
    """Bytes of a checkpoint, and of rank 0's copy while it is written: weights and two moments in
    fp32.
    """
    return 12 * parameters


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


# Time on a device


def peak_of(name: str, bf16: bool = True) -> float | None:
    """The dense peak in TFLOP/s, in bf16 or fp32, of the device of that name; None where it is not
    in the table.
    """
    found = (peaks for part, peaks in PEAK_TFLOPS.items() if part in name)
    return next((peaks[0 if bf16 else 1] for peaks in found), None)


def expected_seconds(
    model: ModelConfig, tokens: float, device: str, ranks: int, mfu: float = DEFAULT_MFU,
    bf16: bool = True,
) -> float:
    """The time that training on `tokens` takes on `ranks` devices of that name at a share `mfu` of
    their peak in bf16, or in fp32.

    Raises UserError where the device's peak is not known.
    """
    peak = peak_of(device, bf16)
    if peak is None:
        raise UserError(
            f"device: the peak FLOP/s of {device!r} is unknown; expected a name that contains one"
            f" of {list(PEAK_TFLOPS)}"
        )
    return tokens * model.flops_per_token() / (peak * 1e12 * ranks * mfu)


# Traffic between hosts


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


def data_bytes(tokens: int, vocabulary: int) -> int:
    """Bytes of token shards that each host fetches, once."""
    return tokens * (2 if vocabulary <= 1 << 16 else 4)


# The command line


def positive_int(text: str) -> int:
    """A whole number of at least 1. argparse.ArgumentTypeError for anything else."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def positive_float(text: str) -> float:
    """A finite number above 0. argparse.ArgumentTypeError for anything else."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 0")
    return number


def positive_ints(text: str) -> list[int]:
    """Whole numbers of at least 1, with commas between them. argparse.ArgumentTypeError for
    anything else.
    """
    return [positive_int(part) for part in text.split(",")]


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
    whole, above_0, several = positive_int, positive_float, positive_ints
    parser.add_argument("--device", default="H100", help="device name")
    parser.add_argument("--mfu", type=above_0, default=DEFAULT_MFU, help="share of the bf16 peak")
    parser.add_argument("--ranks", type=several, default="1,8,64", help="device counts")
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
    print(f"a checkpoint takes {size(checkpoint_bytes(ModelConfig().parameters()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
