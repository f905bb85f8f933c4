"""What a training will need before it is begun: parameters and FLOPs by part, memory, steps, tokens, epochs, time on a device.

python -m gpt1.train.describe --steps 1000000 --tokens 1000000000 --device "H100"
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

from gpt1.errors import UserError
from gpt1.model.config import ModelConfig
from gpt1.train.peaks import PEAK_TFLOPS, peak_of

DEFAULT_MFU = 0.4
"""Share of the peak assumed where none is given."""


@dataclass(frozen=True)
class Part:
    """A part of the model: its parameters and the FLOPs of training on one token (forward and backward)."""

    name: str
    parameters: int
    flops: float


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank. Activations are those kept for the backward pass, by counting the tensors of a block (estimate)."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, field.name) for field in fields(self))


def parts(model: ModelConfig, length: int | None = None) -> list[Part]:
    """The parts, whose parameters and FLOPs add up to `parameters()` and `flops_per_token()`.

    The usual estimate counts 6 FLOPs a parameter, also of position rows, which are in no product, so that the sum is ModelConfig's.
    """
    blocks = model.layers * model.block_parameters()
    tokens, positions = model.rows * model.width, model.context * model.width
    attention = model.flops_per_token(length) - 6 * model.parameters()
    return [
        Part("token rows and softmax (tied)", tokens, 6.0 * tokens),
        Part("position rows", positions, 6.0 * positions),
        Part(f"{model.layers} x {'block' if model.kind == 'gpt' else 'LSTM layer'}", blocks, 6.0 * blocks),
        Part("attention scores", 0, attention),
    ]


def memory(
    model: ModelConfig, *, micro_batch: int, ranks: int, zero: int, bf16: bool, recompute: bool = False, loss_chunk: int = 0
) -> Memory:
    """Bytes on each of `ranks` under ZeRO stage `zero`.

    Weights and gradients have 4 bytes, or 2 under bf16 with ZeRO 1 and above, which keeps fp32 masters beside Adam's two moments.
    """
    count, size = model.parameters(), 2 if bf16 and zero else 4
    positions = micro_batch * model.context
    states = count * (8 + (4 if zero else 0))  # moments, and under ZeRO a flat fp32 copy of the weights
    kept = 2 if bf16 else 4
    inside = 16 * model.width if model.kind == "gpt" else 6 * model.units + 2 * model.width
    # attention's own memory is not quadratic where a fused kernel is used; CPUs with dropout keep two T x T tables a head
    quadratic = 0 if bf16 else 3 * model.heads * model.context
    block = positions * (inside + (quadratic if model.kind == "gpt" else 0)) * kept
    activations = block + model.layers * positions * model.width * kept if recompute else model.layers * block
    rows = min(loss_chunk or positions, positions)
    return Memory(
        weights=count * size // (ranks if zero == 3 else 1),
        gradients=count * size // (ranks if zero >= 2 else 1),
        optimiser=states // (ranks if zero else 1),
        activations=activations,
        logits=rows * model.rows * (8 if loss_chunk else 4 + kept + 4),
    )


def expected_seconds(model: ModelConfig, tokens: float, device: str, ranks: int, mfu: float = DEFAULT_MFU) -> float:
    """The time that training on `tokens` takes on `ranks` devices of that name at a share `mfu` of their bf16 peak.

    Raises UserError where the device's peak is not known.
    """
    peak = peak_of(device)
    if peak is None:
        raise UserError(f"device: the peak of {device!r} is not known; expected a name with one of {[n for n, _ in PEAK_TFLOPS]}")
    return tokens * model.flops_per_token() / (peak * 1e12 * ranks * mfu)


def describe(
    model: ModelConfig,
    *,
    batch: int,
    micro_batch: int,
    steps: int,
    ranks: int = 1,
    zero: int = 1,
    bf16: bool = True,
    corpus_tokens: int | None = None,
    device: str | None = None,
    mfu: float = DEFAULT_MFU,
) -> str:
    """All of it as text."""
    tokens = steps * batch * model.context
    lines = [f"{'part':<34}{'parameters':>14}{'MFLOP a token':>16}"]
    lines += [f"{part.name:<34}{part.parameters:>14,}{part.flops / 1e6:>16,.1f}" for part in parts(model)]
    lines.append(f"{'in all':<34}{model.parameters():>14,}{model.flops_per_token() / 1e6:>16,.1f}")
    need = memory(model, micro_batch=micro_batch, ranks=ranks, zero=zero, bf16=bf16)
    shown = ", ".join(f"{field.name} {getattr(need, field.name) / 1e9:.2f}" for field in fields(need))
    lines.append(f"memory of a rank (GB, estimated): {need.total / 1e9:.2f} = {shown}")
    epochs = f", {tokens / corpus_tokens:,.2f} epochs of {corpus_tokens:,}" if corpus_tokens else ""
    lines.append(f"{steps:,} steps of {batch} x {model.context} tokens: {tokens:,} tokens{epochs}")
    if device:
        hours = expected_seconds(model, tokens, device, ranks, mfu) / 3600
        lines.append(f"expected time on {ranks} x {device} at {mfu:.0%} of the bf16 peak: {hours:,.1f} hours")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("layers", "width", "heads", "context", "vocabulary", "units"):
        parser.add_argument(f"--{name}", type=int, default=getattr(ModelConfig, name))
    parser.add_argument("--kind", choices=("gpt", "lstm"), default="gpt")
    for name, value in (("batch", 64), ("micro-batch", 8), ("steps", 1_000_000), ("ranks", 1), ("zero", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--fp32", action="store_true", help="instead of bf16")
    parser.add_argument("--tokens", type=int, help="tokens of the corpus, for the epochs")
    parser.add_argument("--device", help="a device's name, for the time")
    parser.add_argument("--mfu", type=float, default=DEFAULT_MFU)
    given = parser.parse_args()
    names = ("layers", "width", "heads", "context", "vocabulary", "units", "kind")
    model = ModelConfig(**{name: getattr(given, name) for name in names})
    print(
        describe(
            model, batch=given.batch, micro_batch=given.micro_batch, steps=given.steps, ranks=given.ranks, zero=given.zero,
            bf16=not given.fp32, corpus_tokens=given.tokens, device=given.device, mfu=given.mfu,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
