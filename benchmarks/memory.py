"""The memory that a training takes, against what `gpt1 describe` and the check before a training
expect.

    python benchmarks/memory.py            a small and the paper's shape on one CPU rank (7 GB)
    python benchmarks/memory.py --cuda     the paper's shape on a GPU

Each row is a process of its own: three updates, the last while a checkpoint is written. Measured is
the largest size of the process less its size before the model was made (on a GPU: torch's peak).
Exit status 1 where less was measured than the margin that the check leaves, so that it would refuse
what fits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LanguageModelling
from gpt1.train import engine as engine_module
from gpt1.train.config import DEEPSPEED_FOLDER
from gpt1.train.deepspeed_engine import make_engine
from gpt1.train.describe import memory
from gpt1.train.dist import DistContext
from gpt1.train.engine import MicroBatch, OptimizerConfig
from gpt1.train.preflight import MARGIN, checkpoint_copies


@dataclass(frozen=True)
class Case:
    """One row."""

    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    micro_batch: int
    recompute: bool = False
    loss_chunk: int = 0
    bf16: bool = False
    device: str = "cpu"
    give_back: bool = False
    """Freed memory goes back to the kernel, as glibc has it, instead of staying with the process
    (gpt1/train/engine.py).
    """

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(
            layers=self.layers, width=self.width, heads=self.heads, context=self.context,
            vocabulary=self.vocabulary
        )  # fmt: skip

    def __str__(self) -> str:
        more = [name for name in ("recompute", "bf16") if getattr(self, name)]
        more += ["freed memory given back"] if self.give_back else []
        more += [f"loss_chunk {self.loss_chunk}"] if self.loss_chunk else []
        shape = (
            f"{self.layers} x {self.width}, {self.heads} heads, T {self.context}, V"
            f" {self.vocabulary:,}"
        )
        return ", ".join([shape, f"micro-batch {self.micro_batch}", *more])


SMALL = Case(6, 384, 6, 256, 8_000, 8)
PAPER = Case(12, 768, 12, 512, 40_478, 2)
ON_CPU = (
    SMALL, PAPER, replace(PAPER, give_back=True),
    Case(12, 768, 12, 512, 40_478, 2, recompute=True, loss_chunk=256),
)
ON_GPU = tuple(
    Case(12, 768, 12, 512, 40_478, 16, bf16=True, device="cuda", loss_chunk=chunk)
    for chunk in (0, 4096)
)


def measure(case: Case) -> dict[str, int]:
    """Bytes: of the steps, and of the steps and a checkpoint together. In this process, once."""
    if case.give_back:
        engine_module.keep_freed_memory = lambda: False
    ranks = DistContext.connect("cuda" if case.device == "cuda" else "cpu", threads=2)
    before = largest(ranks.device)
    model = GPT(case.model, torch.Generator().manual_seed(0))
    model.recompute = case.recompute
    engine = make_engine(
        LanguageModelling(model, case.loss_chunk), OptimizerConfig(), ranks,
        settings=DEEPSPEED_FOLDER / "zero1.json", seed=0, micro_batch=case.micro_batch,
        accumulation=1, precision="bf16" if case.bf16 else "fp32",
    )  # fmt: skip
    ids = torch.randint(case.vocabulary, (case.micro_batch, case.context + 1))
    for step in range(2):
        engine.step(step, [MicroBatch(0, (ids,))], 1e-4)
    steps = largest(ranks.device) - before
    with tempfile.TemporaryDirectory() as folder:
        writes = engine.save(Path(folder))
        engine.step(2, [MicroBatch(0, (ids,))], 1e-4)  # while the copies are there
        for write in writes:
            write()
    return {"steps": steps, "whole": largest(ranks.device) - before, "zero": engine.stage}


def largest(device: torch.device) -> int:
    """The largest size so far, in bytes: of this process in memory, or of torch's tensors on the
    GPU.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return (
        int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
        * 1024
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuda", action="store_true", help="on a GPU")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print("@" + json.dumps(measure(Case(**given.case))))
        return 0
    print(
        "| shape | steps: expected GB | measured | ratio | and a checkpoint: expected GB | measured"
        " | ratio |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    good = True
    for case in ON_GPU if given.cuda else ON_CPU:
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        found = json.loads(
            next(line[1:] for line in done.stdout.splitlines() if line.startswith("@"))
        )
        expected = memory(
            case.model, micro_batch=case.micro_batch, ranks=1, zero=found["zero"], bf16=case.bf16,
            recompute=case.recompute, loss_chunk=case.loss_chunk, cpu=case.device == "cpu",
        ).total  # fmt: skip
        copies = 0 if given.cuda else checkpoint_copies(case.model)
        whole = expected + copies
        good = good and found["whole"] >= MARGIN * whole
        print(
            f"| {case} | {expected / 1e9:.2f} | {found['steps'] / 1e9:.2f} |"
            f" {found['steps'] / expected:.0%} | {whole / 1e9:.2f} | {found['whole'] / 1e9:.2f} |"
            f" {found['whole'] / whole:.0%} |",
            flush=True,
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
