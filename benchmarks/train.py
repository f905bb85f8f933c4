"""Tokens a second of training: this package, transformers' model and a plain SDPA model in plain
loops.

    python benchmarks/train.py                    12 x 768, T = 512, one core, fp32 and bf16
                                                  (minutes, about 12 GB)
    python benchmarks/train.py --quick            a smaller shape, under 50 s
    python benchmarks/train.py --compiled         CPU: compiled contenders (a compiler is needed)
    python benchmarks/train.py --clock cpu        on a machine with other work: seconds of the
                                                  contender's own processor time
    python benchmarks/train.py --device cuda      GPU: also MFU and peak memory (more contenders:
                                                  benchmarks/gpu/speed.py)

Same weights, batches and shapes; every contender in a process of its own, all kept alive, on CPUs
pinned to the same core or cores, rounds interleaved; the median of the rounds counts. A rank alone
trains without DeepSpeed whatever stage is set; `--zero` shows what DeepSpeed's stages would cost.
The fastest of ours is judged, all are shown. The text is the embedded corpus, its words numbered by
frequency. Losses without dropout are compared before and after. Exit status 1 when ours is below
the bar: on CPUs 0.97 of the best of the others, on GPUs also 1.5 times transformers and 50 % MFU
(bf16, peak known); or when the data loader gives less than 5 M tokens a second.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpt1.corpus.demo_corpus import embedded_files
from gpt1.data.sequences import SequenceSampler
from gpt1.data.shards import DocumentSpan, Shards, id_type, ids_sha256, open_shard, write_shard
from gpt1.model.config import ModelConfig
from gpt1.train.engine import MicroBatch
from gpt1.train.metrics import peak_tflops
from gpt1.train.trainer import Prefetcher

BAR, LOADER_BAR, HF_BAR, MFU_BAR = 0.97, 5e6, 1.5, 0.5
OTHERS = ("hugging face", "plain sdpa")


class Process:
    """A contender's process."""

    def __init__(self, about: dict[str, Any]) -> None:
        command = [
            sys.executable, str(Path(__file__).with_name("train_contenders.py")), json.dumps(about),
        ]
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(about["threads"]),
            "MASTER_PORT": str(about["port"]),
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def wait(self) -> None:
        """Until it has its model."""
        self._listen()

    def ask(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        return self._listen()

    def _listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise SystemExit(f"a contender ended with status {self._process.wait()}")

    def end(self) -> None:
        assert self._process.stdin is not None
        print("end", file=self._process.stdin, flush=True)
        self._process.wait()


def text_ids(vocabulary: int) -> np.ndarray:
    """The embedded corpus as ids: each word's rank by frequency, below `vocabulary`."""
    words = []
    for path in embedded_files().values():
        words += re.findall(
            r"\w+|[^\w\s]", path.read_text(encoding="utf-8", errors="replace").lower()
        )
    ranks = {
        word: n
        for n, (word, _) in enumerate(
            sorted(Counter(words).items(), key=lambda item: (-item[1], item[0]))
        )
    }
    return np.array([min(ranks[word], vocabulary - 1) for word in words])


def measure_loader(
    ids: np.ndarray, folder: Path, batch: int, context: int, seconds: float
) -> float:
    """Tokens a second of the loader alone: shard file, windows in random order, thread ahead."""
    file = folder / "part-0000.arrow"
    with file.open("wb") as handle:
        write_shard(
            handle, ids.astype(id_type(40_478)),
            {"vocabulary": "-", "set": "train", "part": "part-0000"},
        )
    place = ("part-0000", "train", 0, len(ids), ids_sha256(ids))
    span = DocumentSpan("all", "all", None, "all", *place)
    sampler = SequenceSampler(Shards([open_shard(file).ids], [span], "-"), context)
    loader = Prefetcher(
        lambda step: [MicroBatch(0, (torch.from_numpy(sampler.batch(step, batch)),))], steps=10**9
    )
    loader(0)
    began, step = time.perf_counter(), 1
    while time.perf_counter() - began < seconds:
        loader(step)
        step += 1
    return (step - 1) * batch * context / (time.perf_counter() - began)


def contenders(options: argparse.Namespace, precision: str) -> dict[str, dict[str, Any]]:
    """Name to what its process is told."""
    same = {
        "precision": precision, "zero": None, "compile": False, "recompute": False,
        "loss_chunk": options.loss_chunk, "pad": 0,
    }
    ours = {**same, "kind": "ours"}
    if options.compiled:
        compiled = {"compile": True}
        return {
            "gpt1": ours, "gpt1, compiled": {**ours, **compiled},
            "plain sdpa, compiled": {**same, "kind": "plain sdpa", **compiled},
        }
    if options.device == "cuda":
        ours |= {"pad": 64, "compile": options.compile}
    stages = {f"gpt1, DeepSpeed ZeRO {stage}": {**ours, "zero": stage} for stage in options.zero}
    return {"gpt1": ours, **stages, **{name: {**same, "kind": name} for name in OTHERS}}


def compete(options: argparse.Namespace, precision: str, windows: str) -> dict[str, Any]:
    """All rounds in one precision."""
    told = contenders(options, precision)
    more = {
        "shape": options.shape, "batch": options.batch, "threads": options.threads,
        "device": options.device, "windows": windows, "cores": options.cores,
    }  # fmt: skip
    running = {
        name: Process({**about, **more, "port": options.port + n})
        for n, (name, about) in enumerate(told.items())
    }
    for process in running.values():
        process.wait()
    before = {name: process.ask("loss")["loss"] for name, process in running.items()}
    for process in running.values():
        process.ask(f"steps {options.steps}")  # to warm up
    seconds: dict[str, list[float]] = {name: [] for name in running}
    peaks = {}
    for number in range(options.rounds):
        order = list(running)[number % len(running) :] + list(running)[: number % len(running)]
        for name in order:
            said = running[name].ask(f"steps {options.steps}")
            seconds[name].append(said["cpu_seconds" if options.clock == "cpu" else "seconds"])
            peaks[name] = said["peak_bytes"]
    after = {name: process.ask("loss")["loss"] for name, process in running.items()}
    for process in running.values():
        process.end()
    tokens = options.steps * options.batch * options.shape["context"]
    speed = {name: tokens / statistics.median(times) for name, times in seconds.items()}
    return {
        "precision": precision, "tokens_per_second": speed, "loss_before": before,
        "loss_after": after, "peak_bytes": peaks,
    }


def judge(options: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    """What is below the bar, in words; the ratios are added to `found`."""
    speed = found["tokens_per_second"]
    ours = max(rate for name, rate in speed.items() if name.startswith("gpt1"))
    others = {name: rate for name, rate in speed.items() if not name.startswith("gpt1")}
    found["of_best_other"] = ours / max(others.values())
    if "hugging face" in others:
        found["times_hugging_face"] = ours / others["hugging face"]
    failures = (
        []
        if found["of_best_other"] >= BAR
        else [f"{found['precision']}: {found['of_best_other']:.3f} of the best other"]
    )
    for moment, tolerance in (
        ("loss_before", 2e-2 if found["precision"] == "bf16" else 1e-4),
        ("loss_after", 0.25),
    ):
        spread = max(found[moment].values()) - min(found[moment].values())
        if spread > tolerance:
            failures.append(
                f"{found['precision']}: {moment} differs by {spread:.4f}, at most {tolerance:g} was"
                " expected"
            )
    peak = peak_tflops(torch.device("cuda")) if options.device == "cuda" else None
    if options.device == "cuda" and found["precision"] == "bf16":
        if found["times_hugging_face"] < HF_BAR:
            failures.append(
                f"{found['times_hugging_face']:.2f} times transformers' loop, {HF_BAR} was expected"
            )
        if peak:
            flops = ModelConfig(**options.shape).flops_per_token()
            found["mfu"] = {name: rate * flops / 1e12 / peak for name, rate in speed.items()}
            best = max(share for name, share in found["mfu"].items() if name.startswith("gpt1"))
            failures += [] if best >= MFU_BAR else [f"MFU {best:.1%}, {MFU_BAR:.0%} was expected"]
    return failures


def show(found: dict[str, Any]) -> None:
    print(
        f"\n{found['precision']:<24}{'tokens/s':>12}{'of ours':>9}{'loss before':>13}{'after':>9}"
        f"{'peak GB':>9}{'MFU':>7}"
    )
    ours = max(rate for name, rate in found["tokens_per_second"].items() if name.startswith("gpt1"))
    for name, rate in found["tokens_per_second"].items():
        peak = found["peak_bytes"][name]
        memory = f"{peak / 1e9:9.2f}" if peak else f"{'-':>9}"
        mfu = f"{found['mfu'][name]:7.1%}" if "mfu" in found else f"{'-':>7}"
        losses = f"{found['loss_before'][name]:13.4f}{found['loss_after'][name]:9.4f}"
        print(f"{name:<24}{rate:12,.0f}{rate / ours:9.3f}{losses}{memory}{mfu}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="4 x 256, T = 128, a vocabulary of 8,000"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), action="append", help="default: both"
    )
    parser.add_argument("--batch", type=int, help="windows of a step; default 4, GPU 32")
    parser.add_argument("--steps", type=int, help="steps of a round; default 1, quick 3, GPU 20")
    parser.add_argument(
        "--zero", type=int, choices=(0, 1, 2, 3), nargs="+", default=(),
        help="also ours with DeepSpeed",
    )
    parser.add_argument("--rounds", type=int, help="default 5, quick 3")
    parser.add_argument(
        "--threads", type=int, help="cores of a contender, all on the same; default 1, GPU all"
    )
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="what a step takes: time, or processor time",
    )
    parser.add_argument(
        "--loss-chunk", type=int, default=None,
        help="ours: positions of a chunk; default 0 (all), GPU 8192",
    )
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True,
        help="ours on a GPU: torch.compile",
    )
    parser.add_argument("--compiled", action="store_true", help="compiled contenders, on a CPU")
    parser.add_argument("--port", type=int, default=29_610)
    options = parser.parse_args()
    cuda = options.device == "cuda"
    options.batch = options.batch or (32 if cuda else 4)
    options.steps = options.steps or (20 if cuda else 3 if options.quick else 1)
    options.rounds = options.rounds or (3 if options.quick else 5)
    cores = sorted(os.sched_getaffinity(0))
    options.threads = options.threads or (len(cores) if cuda else 1)
    options.cores = cores if cuda else cores[-options.threads :]
    options.loss_chunk = (8192 if cuda else 0) if options.loss_chunk is None else options.loss_chunk
    small = {"vocabulary": 8000, "context": 128, "width": 256, "layers": 4, "heads": 4}
    options.shape = (
        small
        if options.quick
        else {"vocabulary": 40_478, "context": 512, "width": 768, "layers": 12, "heads": 12}
    )
    return options


def main() -> int:
    options = parse()
    failures: list[str] = []
    ids = text_ids(options.shape["vocabulary"])
    length = options.shape["context"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loader = measure_loader(ids, folder, 64, length, 1.0 if options.quick else 3.0)
        print(f"data loader alone: {loader / 1e6:.1f} M tokens/s")
        if loader < LOADER_BAR:
            failures.append(f"data loader {loader:,.0f} tokens/s, {LOADER_BAR:,.0f} was expected")
        starts = np.random.default_rng(0).integers(0, len(ids) - length - 1, (8, options.batch))
        windows = folder / "windows.pt"
        torch.save(
            torch.from_numpy(np.stack([[ids[s : s + length + 1] for s in row] for row in starts])),
            windows,
        )
        results = []
        for precision in options.precision or ("fp32", "bf16"):
            found = compete(options, precision, str(windows))
            failures += judge(options, found)
            show(found)
            results.append(found)
    device = (
        torch.cuda.get_device_name()
        if options.device == "cuda"
        else f"CPU, {options.threads} threads"
    )
    for failure in failures:
        print(f"below the bar: {failure}")
    about = {
        "shape": options.shape, "batch": options.batch, "steps": options.steps,
        "rounds": options.rounds,
    }
    about |= {"clock": options.clock}
    about |= {
        "loss_chunk": options.loss_chunk, "compile": options.compile and options.device == "cuda",
        "compiled": options.compiled,
        "torch": torch.__version__,
    }
    figures = {"loader_tokens_per_second": loader, "results": results, "failures": failures}
    print(json.dumps({"benchmark": "train", "device": device, **about, **figures}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
