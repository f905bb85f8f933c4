"""What a training costs: parameters and FLOPs by part, and time on devices. `gpt1 describe` prints
this for a workflow, with the memory of a rank (gpt1.train.memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gpt1.errors import UserError
from gpt1.format import span
from gpt1.model.config import ModelConfig, variant_module

if TYPE_CHECKING:
    from gpt1.train.config import PretrainConfig
    from gpt1.train.memory import Memory

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


@dataclass(frozen=True)
class ModelPart:
    """A part of the model: its parameters and the FLOPs of training on one token (forward and
    backward).
    """

    name: str
    parameters: int
    flops: float


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

    parts: Sequence[ModelPart]
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
        total = ModelPart("total", self.parameters, self.flops_per_token)
        lines = [f"{'part':<34}{'parameters':>14}{'MFLOPs per token':>18}"]
        for part in (*self.parts, total):
            lines.append(f"{part.name:<34}{part.parameters:>14,}{part.flops / 1e6:>18,.1f}")
        lines.append(f"memory per rank (estimated): {self.memory}")
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
    config: PretrainConfig, vocabulary: int, *, ranks: int, cpu: bool,
    corpus_tokens: int | None = None, device: Device | None = None,
) -> Forecast:
    """What a training with `config` needs, for a vocabulary of this many tokens.

    UserError for a device whose peak is not known.
    """
    from gpt1.train.memory import memory, memory_arguments  # torch, which a plan can do without

    config = config.scaled()
    model, steps, batch = config.shape(vocabulary), config.max_steps, config.batch_size
    need = memory(model, **memory_arguments(config, ranks, cpu))
    seconds, tokens = None, steps * batch * model.context
    if device:
        bf16 = config.precision == "bf16"
        seconds = expected_seconds(model, tokens, device.name, ranks, device.mfu, bf16)
    return Forecast(
        parts(model), need, model.parameters(), model.flops_per_token(), steps, batch,
        model.context, ranks, config.precision, corpus_tokens, device, seconds,
    )


# Parts and FLOPs


def parts(model: ModelConfig, length: int | None = None) -> list[ModelPart]:
    """The parts, whose parameters and FLOPs add up to `parameters()` and `flops_per_token()`.

    The usual estimate counts 6 FLOPs a parameter, also of position rows, which are in no product,
    so that the sum is ModelConfig's. A variant's weights are one part.
    """
    count = model.parameters()
    scores = ModelPart("attention scores", 0, model.flops_per_token(length) - 6 * count)
    if variant_module(model.kind):
        return [ModelPart(f"all weights of {model.kind}", count, 6.0 * count), scores]
    blocks = model.layers * model.block_parameters()
    tokens, positions = model.rows * model.width, model.context * model.width
    kind = "block" if model.kind == "gpt" else "LSTM layer"
    return [
        ModelPart("token rows and softmax (tied)", tokens, 6.0 * tokens),
        ModelPart("position rows", positions, 6.0 * positions),
        ModelPart(f"{model.layers} x {kind}", blocks, 6.0 * blocks),
        scores,
    ]


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
