"""What a rank really computed, as hashes: to find where two runs that should agree part ways."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from gpt1.train.engine import MicroBatch


class DeterminismLog:
    """Writes a line a micro-batch: step, its place in the global batch, and sha256 of its ids and
    of the state that the random generator of the device was in after it (the seed before it and the
    numbers drawn, so the dropout masks, fix that state).
    """

    def __init__(self, folder: Path, rank: int, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.device = device
        self._file = (folder / f"rank-{rank:05d}.jsonl").open("a", encoding="utf-8")

    def __call__(self, step: int, micro_batch: MicroBatch) -> None:
        state = (
            torch.cuda.get_rng_state(self.device)
            if self.device.type == "cuda"
            else torch.get_rng_state()
        )
        row = {
            "step": step, "index": micro_batch.index, "batch": _hash(*micro_batch.inputs),
            "random": _hash(state),
        }
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def _hash(*tensors: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
