"""The memory that a training takes, against what `gpt1 describe` and the check before a training
expect.

    python benchmarks/memory.py [--quick]    CPU ranks; complete with the paper's shape (7 GB)
    python benchmarks/memory.py --cuda       the paper's shape on a GPU

Each row is a process of its own, or two: some updates, the last while a checkpoint is copied, which
is then written. Measured is the largest size of rank 0 less its size before the model is made and
after a tiny training, which loads what any first update loads (on a GPU: torch's peak). Prints a
table and, last, one JSON object; exit status 1 where the steps, or the steps and a checkpoint, took
more than 15 % more or less than expected.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT, LanguageModelling
from gpt1.train.checkpoint import write_state
from gpt1.train.config import PretrainConfig
from gpt1.train.dist import DistContext
from gpt1.train.engine import Engine, MicroBatch
from gpt1.train.memory import checkpoint_bytes, memory
from gpt1.train.trainer import make_engine

BAR = 0.15
UPDATES = 5
"""The size of a process grows for some updates: freed blocks are not all used again."""


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
    ranks: int = 1
    zero: int = 1
    """The ZeRO stage of several ranks."""
    dropout: float = 0.1
    device: str = "cpu"

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(
            layers=self.layers, width=self.width, heads=self.heads, context=self.context,
            vocabulary=self.vocabulary, dropout=self.dropout,
        )  # fmt: skip

    def __str__(self) -> str:
        more = [name for name in ("recompute", "bf16") if getattr(self, name)]
        more += [f"loss_chunk {self.loss_chunk}"] if self.loss_chunk else []
        more += [] if self.dropout else ["no dropout"]
        more += [f"{self.ranks} ranks, ZeRO {self.zero}"] if self.ranks > 1 else []
        shape = (
            f"{self.layers} x {self.width}, {self.heads} heads, T {self.context}, V"
            f" {self.vocabulary:,}"
        )
        return ", ".join([shape, f"micro-batch {self.micro_batch}", *more])


def variants(case: Case, chunk: int) -> list[Case]:
    """The case, with recomputation, with chunks of the loss, and with both."""
    chunked = replace(case, loss_chunk=chunk)
    return [case, replace(case, recompute=True), chunked, replace(chunked, recompute=True)]


TINY = Case(1, 32, 1, 16, 64, 1)
QUICK = Case(4, 256, 4, 128, 4_000, 4)
SMALL = Case(6, 384, 6, 256, 8_000, 8)
PAPER = Case(12, 768, 12, 512, 40_478, 2)
ON_CPU_QUICK = (
    QUICK, replace(QUICK, recompute=True, loss_chunk=128),
    replace(QUICK, bf16=True, recompute=True), replace(QUICK, ranks=2),
)  # fmt: skip
ON_CPU = (
    *variants(QUICK, 128), *variants(replace(QUICK, bf16=True), 128),
    replace(QUICK, micro_batch=16), replace(QUICK, dropout=0.0), replace(QUICK, ranks=2),
    *variants(SMALL, 256), replace(SMALL, bf16=True), Case(2, 512, 8, 64, 16_000, 4),
    *variants(PAPER, 256),
)  # fmt: skip
ON_GPU = tuple(
    Case(12, 768, 12, 512, 40_478, 16, bf16=True, device="cuda", loss_chunk=chunk)
    for chunk in (0, 4096)
)


def train(case: Case, ranks: DistContext, updates: int) -> Engine:
    """An engine after some updates."""
    model = GPT(case.model, torch.Generator().manual_seed(0))
    model.recompute = case.recompute
    config = PretrainConfig(
        batch_size=case.micro_batch * ranks.world, micro_batch_size=case.micro_batch,
        zero=case.zero, precision="bf16" if case.bf16 else "fp32",
    )  # fmt: skip
    engine = make_engine(LanguageModelling(model, case.loss_chunk), config, ranks)
    for step in range(updates):
        engine.step(step, [micro_batch(case)], 1e-4)
    return engine


def micro_batch(case: Case) -> MicroBatch:
    """Random ids."""
    return MicroBatch(0, (torch.randint(case.vocabulary, (case.micro_batch, case.context + 1)),))


def write_checkpoint(engine: Engine, case: Case) -> None:
    """One more update between the copy of a checkpoint and its writing, as in a training."""
    with tempfile.TemporaryDirectory() as folder:
        state = engine.copy_state()
        engine.step(UPDATES, [micro_batch(case)], 1e-4)
        if state:
            write_state(Path(folder) / "state.safetensors", state)


def measure(case: Case) -> dict[str, int]:
    """Bytes: of the steps, and of the steps and a checkpoint together. In this process, once."""
    ranks = DistContext.connect("cuda" if case.device == "cuda" else "cpu", threads=1)
    options = {name: getattr(case, name) for name in ("recompute", "bf16", "ranks", "zero")}
    tiny = replace(TINY, loss_chunk=min(case.loss_chunk, 8), device=case.device, **options)
    write_checkpoint(train(tiny, ranks, 2), tiny)
    before = forget_largest(ranks.device)
    engine = train(case, ranks, UPDATES)
    steps = largest(ranks.device) - before
    write_checkpoint(engine, case)
    whole = largest(ranks.device) - before
    ranks.destroy()
    return {"steps": steps, "whole": whole, "zero": engine.stage}


def forget_largest(device: torch.device) -> int:
    """Measure the largest size from now on; returns the present size in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    return largest(device)


def largest(device: torch.device) -> int:
    """The largest size, in bytes: of this process in memory, or of torch's tensors on the GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def run(case: Case) -> dict[str, int]:
    """`measure` on rank 0, the ranks in processes of their own. RuntimeError where one fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    about = {"WORLD_SIZE": str(case.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in range(case.ranks):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), **about} if case.ranks > 1 else {}
        processes.append(
            subprocess.Popen(
                command, env={**os.environ, **place}, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True,
            )
        )
    ended = [process.communicate() for process in processes]
    for process, (_, error) in zip(processes, ended, strict=True):
        if process.returncode:
            raise RuntimeError(f"{case}: a rank ended with {process.returncode}\n{error}")
    row = next(line for line in ended[0][0].splitlines() if line.startswith("@"))
    found: dict[str, int] = json.loads(row[1:])
    return found


def compare(case: Case) -> dict[str, object]:
    """Expected and measured bytes, and the measured share of the expected."""
    found = run(case)
    steps = memory(
        case.model, micro_batch=case.micro_batch, ranks=case.ranks, zero=found["zero"],
        bf16=case.bf16, recompute=case.recompute, loss_chunk=case.loss_chunk,
        cpu=case.device == "cpu",
    ).total  # fmt: skip
    whole = steps + (checkpoint_bytes(case.model.parameters()) if case.device == "cpu" else 0)
    ratios = (found["steps"] / steps, found["whole"] / whole)
    print(
        f"| {case} | {steps / 1e6:,.0f} | {found['steps'] / 1e6:,.0f} | {ratios[0]:.0%} |"
        f" {whole / 1e6:,.0f} | {found['whole'] / 1e6:,.0f} | {ratios[1]:.0%} |",
        flush=True,
    )
    return {
        "case": str(case), "expected": [steps, whole], "measured": [found["steps"], found["whole"]],
        "ratios": ratios, "passed": all(abs(ratio - 1) <= BAR for ratio in ratios),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuda", action="store_true", help="on a GPU")
    parser.add_argument("--quick", action="store_true", help="four small rows")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print("@" + json.dumps(measure(Case(**given.case))))
        return 0
    print(
        "| shape | steps: expected MB | measured | ratio | and a checkpoint: expected MB | measured"
        " | ratio |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    on_cpu = ON_CPU_QUICK if given.quick else ON_CPU
    rows = [compare(case) for case in (ON_GPU if given.cuda else on_cpu)]
    passed = all(row["passed"] for row in rows)
    print(json.dumps({"quick": given.quick, "bar": BAR, "passed": passed, "rows": rows}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
