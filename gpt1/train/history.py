"""What training has had to say so far.

It is saved in every checkpoint, so that a resumed run's files are whole and identical.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
SAMPLES_PAGE = "samples.md"
SKIPPED_FILE = "skipped.jsonl"


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
    """Each time training went back: which batches it left out, and why (gpt1.train.rollback)."""

    def row(self, step: int, values: Mapping[str, float]) -> dict[str, Any]:
        """Add `values` to the row of `step`; rows come in the order of their steps."""
        if not self.rows or self.rows[-1]["step"] != step:
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
