"""What training has had to say so far.

It is saved in every checkpoint, so that a resumed run's files are complete and identical.
"""

from __future__ import annotations

import json
import math
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gpt1.data.sequences import batch_of, skipped_in
from gpt1.format import span
from gpt1.model.config import ModelConfig
from gpt1.train.cost_model import peak_of

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
SAMPLES_PAGE = "samples.md"
SKIPPED_FILE = "skipped.jsonl"
MOST_ROWS = 20_000


@dataclass
class History:
    """Rows of metrics, samples of text, snapshots, and the losses since the last row.

    Nothing in it depends on time or place.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    snapshots: dict[str, str] = field(default_factory=dict)
    """File name -> sha256."""
    pending: list[float] = field(default_factory=list)
    """Mean losses of the steps since the last row."""
    books: list[dict[str, Any]] = field(default_factory=list)
    """Held-out figures by book, once the training is at its end."""
    skipped: list[dict[str, Any]] = field(default_factory=list)
    """Each rollback: which batches it skipped, and why (gpt1.train.divergence)."""

    def batch_of(self, step: int) -> int:
        """The batch, in the order of the data, that the 0-based `step` is made from."""
        return batch_of(step, skipped_in(self.skipped))

    def row(self, step: int, values: Mapping[str, float]) -> dict[str, Any]:
        """Add `values` to the row of `step`; rows come in the order of their steps.

        Every second row is dropped when there are MOST_ROWS, but for those of a validation: the
        history is in each checkpoint, and older points may be sparser.
        """
        if not self.rows or self.rows[-1]["step"] != step:
            if len(self.rows) >= MOST_ROWS:
                self.rows = [
                    row for n, row in enumerate(self.rows) if n % 2 or "validation_loss" in row
                ]
            self.rows.append({"step": step})
        self.rows[-1].update(values)
        return self.rows[-1]

    def recent(self, most: int = 1000) -> list[tuple[int, dict[str, float]]]:
        """Step and values of the last `most` rows."""
        return [
            (row["step"], {name: value for name, value in row.items() if name != "step"})
            for row in self.rows[-most:]
        ]

    def take_loss(self) -> float:
        """The mean of the pending losses, which are then forgotten."""
        mean = math.fsum(self.pending) / len(self.pending)
        self.pending.clear()
        return mean

    def last(self, name: str) -> float | None:
        """The newest value of that name, if any row has it."""
        return next((row[name] for row in reversed(self.rows) if name in row), None)

    def to_json(self) -> str:
        """All of it; floats survive exactly."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> History:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))

    def write(self, folder: Path) -> None:
        """metrics.jsonl (a row a line), samples.jsonl, samples.md for reading, and skipped.jsonl
        where batches were left out.
        """
        write_lines(folder / METRICS_FILE, self.rows)
        write_lines(folder / SAMPLES_FILE, self.samples)
        if self.skipped:
            write_lines(folder / SKIPPED_FILE, self.skipped)
        (folder / SAMPLES_PAGE).write_text(_page(self.samples), encoding="utf-8")


def write_lines(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines, keys in the order they have."""
    file.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


def _page(samples: list[dict[str, Any]]) -> str:
    lines = [
        "# Samples during pre-training", "", "The prompt in bold, then what the model wrote.", "",
    ]
    step = None
    for sample in samples:
        if sample["step"] != step:
            step = sample["step"]
            lines += [f"## After {step} steps", ""]
        lines += [f"**{_one_line(sample['prompt'])}** {_one_line(sample['text'])}", ""]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    """Line breaks become strokes, and Markdown's own characters lose their meaning."""
    stroked = " / ".join(line.strip() for line in text.splitlines())
    return "".join("\\" + c if c in "\\`*_[]<>#|" else c for c in stroked)


# Throughput


def device_name(device: torch.device) -> str:
    """A GPU's name, or that of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"^model name\s*: (.+)$", info, re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def peak_tflops(device: torch.device) -> float | None:
    """The dense bf16 peak of a CUDA device; None where it is not in the table, and on CPUs."""
    if device.type != "cuda":
        return None
    return peak_of(device_name(device))


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
        f" {span(seconds)}"
    )


def _tflops(value: float) -> str:
    return f"{value:.1f} TFLOP/s" if value >= 1 else f"{value * 1000:.1f} GFLOP/s"
