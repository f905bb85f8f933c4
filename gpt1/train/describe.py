"""Estimate what a training needs: parameters and FLOPs by part, memory, steps, tokens, epochs and
time on a device.

`gpt1 describe` does this for a workflow's settings. Without a workflow:

python -m gpt1.train.describe --steps 1000000 --tokens 1000000000 --device "H100"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.command_numbers import positive_float, positive_int
from gpt1.train.flops import PEAK_TFLOPS, peak_of
from gpt1.wording import span

DEFAULT_MFU = 0.4
"""Share of the peak assumed where none is given."""


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
    """Bytes on one rank.

    Activations are those kept for the backward pass, by counting the tensors of a block (estimate).
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
    """A kind of device, and the share of its bf16 peak that the training is expected to reach."""

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
        more = {
            "tokens": self.tokens, "epochs": self.epochs,
            "flops": self.tokens * self.flops_per_token,
        }
        return {
            **asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}, **more,
        }

    def __str__(self) -> str:
        rows = [(part.name, part.parameters, part.flops) for part in self.parts]
        lines = [f"{'part':<34}{'parameters':>14}{'MFLOPs per token':>18}"]
        for name, parameters, flops in [*rows, ("total", self.parameters, self.flops_per_token)]:
            lines.append(f"{name:<34}{parameters:>14,}{flops / 1e6:>18,.1f}")
        shown = ", ".join(
            f"{field.name} {size(getattr(self.memory, field.name))}"
            for field in fields(self.memory)
        )
        lines.append(f"memory per rank (estimated): {size(self.memory.total)} = {shown}")
        epochs = (
            f", {self.epochs:,.2f} epochs of {self.corpus_tokens:,}"
            if self.epochs is not None
            else ""
        )
        lines.append(
            f"{self.steps:,} steps of {self.batch} x {self.context} tokens: {self.tokens:,}"
            f" tokens{epochs}"
        )
        if self.device and self.seconds is not None:
            where = f"{self.ranks} x {self.device.name} at {self.device.mfu:.0%} of the bf16 peak"
            lines.append(f"expected time on {where}: {span(self.seconds)}")
        return "\n".join(lines)


def parts(model: ModelConfig, length: int | None = None) -> list[Part]:
    """The parts, whose parameters and FLOPs add up to `parameters()` and `flops_per_token()`.

    The usual estimate counts 6 FLOPs a parameter, also of position rows, which are in no product,
    so that the sum is ModelConfig's.
    """
    blocks = model.layers * model.block_parameters()
    tokens, positions = model.rows * model.width, model.context * model.width
    attention = model.flops_per_token(length) - 6 * model.parameters()
    return [
        Part("token rows and softmax (tied)", tokens, 6.0 * tokens),
        Part("position rows", positions, 6.0 * positions),
        Part(
            f"{model.layers} x {'block' if model.kind == 'gpt' else 'LSTM layer'}", blocks,
            6.0 * blocks,
        ),
        Part("attention scores", 0, attention),
    ]


def memory(
    model: ModelConfig, *, micro_batch: int, ranks: int, zero: int, bf16: bool,
    recompute: bool = False, loss_chunk: int = 0, cpu: bool | None = None,
) -> Memory:
    """Bytes on each of `ranks` under ZeRO stage `zero`, on a `cpu` (None: where training is not in
    bf16) or a GPU.

    Weights and gradients have 4 bytes, or 2 under bf16 with ZeRO 1 and above, which keeps fp32
    masters beside Adam's two moments.
    """
    count, size = model.parameters(), 2 if bf16 and zero else 4
    positions = micro_batch * model.context
    states = count * (
        8 + (4 if zero else 0)
    )  # moments, and under ZeRO a flat fp32 copy of the weights
    kept = 2 if bf16 else 4
    # CPUs have no fused kernels with dropout: they keep its noise, and three T x T tables a head
    plain = model.dropout > 0 and (not bf16 if cpu is None else cpu)
    inside = (
        (20 if plain else 16) * model.width
        if model.kind == "gpt"
        else 6 * model.units + 2 * model.width
    )
    quadratic = 3 * model.heads * model.context if plain else 0
    block = positions * (inside + (quadratic if model.kind == "gpt" else 0)) * kept
    activations = (
        block + model.layers * positions * model.width * kept if recompute else model.layers * block
    )
    rows = min(loss_chunk or positions, positions)
    return Memory(
        weights=count * size // (ranks if zero == 3 else 1),
        gradients=count * size // (ranks if zero >= 2 else 1),
        optimizer=states // (ranks if zero else 1), activations=activations,
        logits=rows * model.rows * (8 if loss_chunk else 4 + kept + 4),
    )


def expected_seconds(
    model: ModelConfig, tokens: float, device: str, ranks: int, mfu: float = DEFAULT_MFU
) -> float:
    """The time that training on `tokens` takes on `ranks` devices of that name at a share `mfu` of
    their bf16 peak.

    Raises UserError where the device's peak is not known.
    """
    peak = peak_of(device)
    if peak is None:
        raise UserError(
            f"device: the peak FLOP/s of {device!r} is unknown; expected a name that contains one"
            f" of {[n for n, _ in PEAK_TFLOPS]}"
        )
    return tokens * model.flops_per_token() / (peak * 1e12 * ranks * mfu)


def describe(
    model: ModelConfig, *, batch: int, micro_batch: int, steps: int, ranks: int = 1, zero: int = 1,
    bf16: bool = True, recompute: bool = False, loss_chunk: int = 0,
    corpus_tokens: int | None = None, device: Device | None = None,
) -> Forecast:
    """All of it. UserError for a device whose peak is not known."""
    tokens = steps * batch * model.context
    need = memory(
        model, micro_batch=micro_batch, ranks=ranks, zero=zero, bf16=bf16, recompute=recompute,
        loss_chunk=loss_chunk
    )  # fmt: skip
    seconds = expected_seconds(model, tokens, device.name, ranks, device.mfu) if device else None
    return Forecast(
        parts(model), need, model.parameters(), model.flops_per_token(), steps, batch,
        model.context, ranks, corpus_tokens, device, seconds,
    )  # fmt: skip


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def main() -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("layers", "width", "heads", "context", "vocabulary", "units"):
        parser.add_argument(f"--{name}", type=positive_int, default=getattr(ModelConfig, name))
    parser.add_argument("--kind", choices=("gpt", "lstm"), default="gpt")
    for name, value in (("batch", 64), ("micro-batch", 8), ("steps", 1_000_000), ("ranks", 1)):
        parser.add_argument(f"--{name}", type=positive_int, default=value)
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), default=1)
    parser.add_argument("--fp32", action="store_true", help="use fp32 instead of bf16")
    parser.add_argument("--tokens", type=positive_int, help="corpus size, to count epochs")
    parser.add_argument("--device", help="device name, to estimate the time")
    parser.add_argument("--mfu", type=positive_float, default=DEFAULT_MFU)
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    try:
        made = _of_command_line(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(made.to_dict(), indent=1) if given.json else made)
    return 0


def _of_command_line(given: argparse.Namespace) -> Forecast:
    names = ("layers", "width", "heads", "context", "vocabulary", "units", "kind")
    return describe(
        ModelConfig(**{name: getattr(given, name) for name in names}), batch=given.batch,
        micro_batch=given.micro_batch, steps=given.steps, ranks=given.ranks, zero=given.zero,
        bf16=not given.fp32, corpus_tokens=given.tokens,
        device=Device(given.device, given.mfu) if given.device else None,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
