"""How fast it goes: tokens and floating-point operations a second, model FLOPs utilisation, and
the time that is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gpt1.model.config import ModelConfig
from gpt1.train.cost_model import peak_of


def peak_tflops(device: torch.device) -> float | None:
    """The dense bf16 peak of a CUDA device; None where it is not in the table, and on CPUs."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


@dataclass
class ThroughputMeter:
    """Measures between calls of `read`; time spent `paused` (validation, checkpoints) does not
    count.
    """

    model: ModelConfig
    tokens_per_step: int
    world: int
    peak: float | None

    def __post_init__(self) -> None:
        self._since = time.monotonic()
        self._paused = 0.0
        self._step: int | None = None

    def start(self, step: int) -> None:
        """Measuring begins after `step` updates."""
        self._step, self._since, self._paused = step, time.monotonic(), 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What takes place inside does not count."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def read(self, step: int) -> dict[str, float]:
        """tokens/s, TFLOP/s of all ranks together, and mfu where the peak is known, since the
        last reading.
        """
        seconds = max(time.monotonic() - self._since - self._paused, 1e-9)
        tokens = (step - (self._step or 0)) * self.tokens_per_step / seconds
        self.start(step)
        values = {
            "tokens_per_second": tokens,
            "tflops": tokens * self.model.flops_per_token() / 1e12,
        }
        if self.peak:
            values["mfu"] = values["tflops"] / (self.peak * self.world)
        return values


def step_line(
    step: int, steps: int, row: dict[str, float], speed: dict[str, float], tokens_per_step: int
) -> str:
    """The line one watches: step, loss, lr, gradient norm, tokens/s, TFLOP/s or MFU, time left."""
    seconds = (
        (steps - step) * tokens_per_step / speed["tokens_per_second"]
        if speed["tokens_per_second"]
        else 0.0
    )
    rate = f"mfu {speed['mfu']:.1%}" if "mfu" in speed else f"{_tflops(speed['tflops'])}"
    loss = f"{row['loss']:.4f}" if "loss" in row else "none (books excluded)"
    return (
        f"step {step}/{steps} | loss {loss} | lr {row['lr']:.2e} | norm"
        f" {row['gradient_norm']:.2f} | {speed['tokens_per_second']:,.0f} tokens/s | {rate} | ETA"
        f" {clock(seconds)}"
    )


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _tflops(value: float) -> str:
    return f"{value:.1f} TFLOP/s" if value >= 1 else f"{value * 1000:.1f} GFLOP/s"
