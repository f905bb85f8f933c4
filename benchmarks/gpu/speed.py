"""Tokens a second of training on one GPU: this package against the loops that others would write.

    python benchmarks/gpu/speed.py --packed FOLDER --out RESULTS --limit 170
    python benchmarks/gpu/speed.py --packed FOLDER --out RESULTS --device cpu --batch 4 --steps 2

FOLDER is one that `gpt1 pack` wrote: its run.json gives the shape, its shards the text. Each
contender is a process of its own with the same initial weights and the same batches; they run in
the order of CONTENDERS until `--limit` seconds are over, and each one's row is appended to
RESULTS/speed.jsonl when it is measured. Rows of ours with a comma are experiments or settings that
the product does not choose by itself; the row `gpt1` is what pre-training runs. Then the fastest of
ours is profiled (profile.json: milliseconds of a step by kind of kernel). Needs torch, numpy,
safetensors, pyarrow and pydantic; contenders whose library is missing (transformers, DeepSpeed)
say so in their row.

Losses without dropout are compared before and after. Exit status 1 below the bar: the row `gpt1` at
least 1.1 times the best other contender, a compiled one among them, and 50 % model FLOPs
utilization (on a GPU whose peak is known).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from gpt1.data.shards import open_shard  # noqa: E402
from gpt1.tokenizer.vocabulary import Vocabulary  # noqa: E402
from gpt1.train.config import from_json  # noqa: E402
from gpt1.train.dist import DistContext  # noqa: E402
from gpt1.train.metrics import peak_tflops  # noqa: E402

OURS: dict[str, Any] = {
    "kind": "ours", "compile": True, "zero": None, "loss_chunk": 8192, "pad": 64,
}
OTHER: dict[str, Any] = {"compile": False, "zero": None, "loss_chunk": 0, "pad": 0}
CONTENDERS: dict[str, dict[str, Any]] = {
    "gpt1": OURS, "plain sdpa, compiled": {**OTHER, "kind": "plain sdpa", "compile": True},
    "transformers, compiled": {**OTHER, "kind": "hugging face", "compile": True},
    "gpt1, one chunk": {**OURS, "loss_chunk": 0}, "gpt1, DeepSpeed ZeRO 1": {**OURS, "zero": 1},
    "gpt1, DeepSpeed ZeRO 2": {**OURS, "zero": 2},
    "transformers": {**OTHER, "kind": "hugging face"},
    "gpt1, DeepSpeed ZeRO 0": {**OURS, "zero": 0}, "plain sdpa": {**OTHER, "kind": "plain sdpa"},
}
OTHERS_BAR, MFU_BAR = 1.1, 0.5
PROFILE_SECONDS = 45  # kept for the profile at the end
BEFORE, AFTER = 2e-2, 0.25  # largest difference in loss before and after the steps, bf16
KINDS = (  # the first that fits counts: compiled kernels bear the names of what they fuse
    ("compiled element-wise and reductions", ("triton", "graph_", "cpp_fused")),
    ("attention", ("flash", "fmha", "sdpa", "attention", "cudnn")),
    ("optimizer and clipping", ("multi_tensor", "adam", "foreach", "norm_cleanup")),
    ("matrix products", ("gemm", "cutlass", "nvjet", "xmma", "cublas", "::mm", "::addmm", "::bmm")),
    ("copies", ("memcpy", "memset", "copy", "fill")),
)


def main() -> int:
    """Run the contenders, print the table and the verdict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packed", type=Path, required=True, help="a folder that `gpt1 pack` wrote"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--limit", type=float, default=170, help="seconds for everything")
    parser.add_argument("--each", type=float, default=90, help="seconds for one contender")
    parser.add_argument("--only", action="append", help="a contender's name; repeatable")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batch", type=int, default=64, help="sequences of a step")
    parser.add_argument("--steps", type=int, default=20, help="steps of a round; three rounds")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print("@" + json.dumps(measure(options, json.loads(options.contender))), flush=True)
        os._exit(0)  # threads of NCCL and of the compiler would keep the process for seconds
    options.out.mkdir(parents=True, exist_ok=True)
    began, rows = time.monotonic(), []
    for name, about in CONTENDERS.items():
        left = options.limit - (time.monotonic() - began)
        if options.only and name not in options.only:
            continue
        if left < PROFILE_SECONDS + 15:
            print(f"no time left for {name}", flush=True)
            continue
        row = {"name": name, **run(options, about, min(options.each, left - PROFILE_SECONDS))}
        rows.append(row)
        append(options.out / "speed.jsonl", row)
        print(line(row), flush=True)
    ours = [row for row in rows if row.get("kind") == "ours" and "tokens_per_second" in row]
    left = options.limit - (time.monotonic() - began)
    if ours and left > 20:
        best = max(ours, key=lambda row: row["tokens_per_second"])
        profiled = run(options, {**CONTENDERS[best["name"]], "profile": True}, left)
        (options.out / "profile.json").write_text(json.dumps(profiled, indent=1) + "\n")
        print(f"profile of {best['name']}: {json.dumps(profiled.get('milliseconds', profiled))}")
    verdict, passed = judge(rows)
    print(json.dumps({"benchmark": "gpu/speed", **verdict}))
    return 0 if passed else 1


def run(options: argparse.Namespace, about: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Measure one contender in its own process; a failure is a row with `error`."""
    settings = ("packed", "out", "device", "batch", "steps", "precision")
    words = [f"--{name}={getattr(options, name)}" for name in settings]
    command = [sys.executable, __file__, *words, "--contender", json.dumps(about)]
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {**about, "error": f"not done after {seconds:.0f} s"}
    answers = [text[1:] for text in done.stdout.splitlines() if text.startswith("@")]
    if not answers:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {**about, "error": f"status {done.returncode}: {last[:300]}"}
    return {**about, **json.loads(answers[-1]), "seconds": round(time.monotonic() - began, 1)}


def measure(options: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any]:
    """Train in this process; the median of three rounds counts. With `profile`: kernels instead."""
    from train_contenders import make

    config, runtime = from_json(options.packed / "run.json")
    shape = config.shape(Vocabulary.load(Path(runtime.vocabulary)).size)
    ranks = DistContext.connect(options.device, threads=None if options.device == "cuda" else 1)
    settings = {
        **about, "shape": shape.to_dict(), "precision": options.precision, "recompute": False,
        "batch": options.batch,
    }  # fmt: skip
    contender = make(settings, ranks)
    batches = list(read_batches(Path(runtime.train[0]), shape.context, options.batch, 8))
    if options.device == "cuda":
        batches = [batch.pin_memory() for batch in batches]
    before, began = float(contender.loss(batches[0])), time.perf_counter()
    for batch in batches[:4]:
        contender.step(batch)
    synchronize(options.device)
    warm = time.perf_counter() - began
    if about.get("profile"):
        return profile(options, contender, batches)
    rounds = []
    for number in range(3):
        began = time.perf_counter()
        for step in range(options.steps):
            contender.step(batches[(number * options.steps + step) % len(batches)])
        synchronize(options.device)
        rounds.append((time.perf_counter() - began) / options.steps)
    seconds, tokens = sorted(rounds)[1], options.batch * shape.context
    cuda = options.device == "cuda"
    peak = peak_tflops(ranks.device)
    tflops = tokens / seconds * shape.flops_per_token() / 1e12
    return {
        "tokens_per_second": round(tokens / seconds), "milliseconds": round(seconds * 1e3, 2),
        "slowest_of_fastest": round(max(rounds) / min(rounds), 3),
        "mfu": round(tflops / peak, 4) if peak else None,
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if cuda else None,
        "warm_up_seconds": round(warm, 1), "loss_before": before,
        "loss_after": float(contender.loss(batches[0])), "batch": options.batch,
        "precision": options.precision, "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
    }  # fmt: skip


def read_batches(shard: Path, context: int, batch: int, count: int) -> Iterator[torch.Tensor]:
    """Yield (batch, context + 1) int64 ids of real text, from random places of one shard."""
    ids = open_shard(shard).ids
    starts = np.random.default_rng(0).integers(0, len(ids) - context - 1, (count, batch))
    for row in starts:
        yield torch.from_numpy(np.stack([ids[s : s + context + 1].astype(np.int64) for s in row]))


def profile(
    options: argparse.Namespace, contender: Any, batches: list[torch.Tensor]
) -> dict[str, Any]:
    """Return the milliseconds of a step by kind of kernel, and the fifteen longest kernels."""
    steps = 4
    with torch.profiler.profile() as profiler:
        for batch in batches[:steps]:
            contender.step(batch)
        synchronize(options.device)
    cuda = options.device == "cuda"
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        took = event.self_device_time_total if cuda else event.self_cpu_time_total
        if not cuda or event.device_type == torch.profiler.DeviceType.CUDA:
            times[event.key] += took / 1e3 / steps
    kinds: Counter[str] = Counter()
    for name, took in times.items():
        kinds[kind_of(name)] += took
    longest = [
        {"kernel": name[:120], "milliseconds": round(t, 3)} for name, t in times.most_common(15)
    ]
    return {
        "milliseconds": {kind: round(t, 2) for kind, t in kinds.most_common()},
        "longest": longest,
    }


def kind_of(kernel: str) -> str:
    """Name the kind of a kernel by what its name contains."""
    low = kernel.lower()
    return next((kind for kind, words in KINDS if any(word in low for word in words)), "other")


def judge(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """Return the verdict and whether it passes; what was not measured does not pass."""
    speed = {row["name"]: row for row in rows if "tokens_per_second" in row}
    others = [row for row in speed.values() if row["kind"] != "ours"]
    if "gpt1" not in speed or not any(row["compile"] for row in others):
        return {"failures": ["`gpt1` and a compiled other contender must both be measured"]}, False
    ours, fastest = speed["gpt1"], max(speed.values(), key=lambda row: row["tokens_per_second"])
    other = max(others, key=lambda row: row["tokens_per_second"])
    ratio, failures = ours["tokens_per_second"] / other["tokens_per_second"], []
    if ratio < OTHERS_BAR:
        failures.append(f"{ratio:.3f} times {other['name']}, {OTHERS_BAR} was expected")
    if ours["mfu"] is not None and ours["mfu"] < MFU_BAR:
        failures.append(f"MFU {ours['mfu']:.1%}, {MFU_BAR:.0%} was expected")
    for moment, tolerance in (("loss_before", BEFORE), ("loss_after", AFTER)):
        spread = max(row[moment] for row in speed.values()) - min(
            row[moment] for row in speed.values()
        )
        if spread > tolerance:
            failures.append(f"{moment} differs by {spread:.4f}, at most {tolerance:g} was expected")
    figures = {
        "device": ours["device"], "tokens_per_second": ours["tokens_per_second"],
        "mfu": ours["mfu"], "fastest": fastest["name"], "best_other": other["name"],
        "times_best_other": round(ratio, 3),
    }  # fmt: skip
    return {**figures, "failures": failures}, not failures


def line(row: dict[str, Any]) -> str:
    """Format one row for people."""
    if "error" in row:
        return f"{row['name']:<26} {row['error']}"
    mfu = f"{row['mfu']:.1%}" if row["mfu"] else "-"
    peak = f"{row['peak_gb']:.1f} GB" if row["peak_gb"] else "-"
    return (
        f"{row['name']:<26}{row['tokens_per_second']:>10,} tokens/s {row['milliseconds']:>9,.2f} ms"
        f"  MFU {mfu:>6}  {peak:>8}  loss {row['loss_before']:.4f} to {row['loss_after']:.4f}"
    )


def append(file: Path, row: dict[str, Any]) -> None:
    """Append one JSON line."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def synchronize(device: str) -> None:
    """Wait for the device's work."""
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
