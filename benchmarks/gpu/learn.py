"""Pre-train on one GPU for as long as there is, then fine-tune GLUE with and without it.

    python benchmarks/gpu/learn.py --packed FOLDER --speed RESULTS/speed.jsonl --out RESULTS \\
        --limit 540

FOLDER is one that `gpt1 pack` wrote, with tasks. The number of pre-training steps follows from the
measured speed, so that pre-training takes `--pretrain` seconds; the schedule's shape is kept. Then
the folder's fine-tuning jobs run, `--processes` at a time on the one device, ordered so that a cut
leaves complete pairs: the first seed of every task with and without pre-training, then the next
seed. Each finished job appends a row to RESULTS/finetune.jsonl; the log and the curves of the
pre-training are copied to RESULTS, up to its last validation where time ended it; fine-tuning
starts from its last snapshot then. If time ends, what is there is the result. compare.py makes the
table. What an earlier pre-training left in FOLDER/output is removed. Needs torch, numpy,
safetensors, pyarrow and pydantic.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from gpt1.errors import UserError  # noqa: E402
from gpt1.tasks.finetune import FinetuneJob  # noqa: E402
from gpt1.tasks.finetune_packed import (  # noqa: E402
    JOBS_FILE,
    OUTPUT,
    RESULTS_FILE,
    append_result,
    read_jobs,
    run_packed,
)
from gpt1.train.config import PretrainConfig  # noqa: E402
from gpt1.weights.store import MODEL_FILE, load_model  # noqa: E402

LARGEST_FIRST = ("sst2", "qqp", "mnli", "qnli", "cola", "stsb", "mrpc", "rte")
"""The long jobs start first, so that no long one is alone at the end."""
SHARE = 0.9  # of the measured speed, for validation, samples and the first steps
CURVES = ("metrics.jsonl", "throughput.jsonl", "samples.md", "held_out_books.jsonl")


def main() -> int:
    """Pre-train, fine-tune, and say what fell to the time limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packed", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--speed", type=Path, help="speed.jsonl of speed.py")
    parser.add_argument("--tokens-per-second", type=float, help="instead of --speed")
    parser.add_argument("--limit", type=float, default=540, help="seconds for everything")
    parser.add_argument("--pretrain", type=float, default=260, help="seconds of pre-training")
    parser.add_argument("--starting", type=float, default=60, help="seconds until the first step")
    parser.add_argument("--validations", type=int, default=4, help="each with a snapshot")
    parser.add_argument("--processes", type=int, default=10, help="fine-tuning jobs at once")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args()
    began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.speed and options.speed.is_file() and options.speed.parent != options.out:
        shutil.copy(options.speed, options.out)
    clear(options.packed / OUTPUT)
    speed = options.tokens_per_second or measured_speed(options.speed)
    steps = plan(options, speed)
    status = pretrain(options, options.pretrain + options.starting)
    model = newest_model(options.packed / OUTPUT)
    spent = time.monotonic() - began
    print(
        f"pre-training: {steps} steps planned, status {status}, {spent:.0f} s, model {model}",
        flush=True,
    )
    done, left = finetune(options, model, began)
    print(json.dumps({
        "benchmark": "gpu/learn", "steps": steps, "pretraining_status": status,
        "finetuning_jobs": done, "not_done": left, "seconds": round(time.monotonic() - began, 1),
    }))  # fmt: skip
    return 0 if status == 0 and not left else 1


def clear(output: Path) -> None:
    """Remove what an earlier pre-training left: another number of steps could not go on from it."""
    for name in ("checkpoints", "snapshots"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in (MODEL_FILE, *CURVES):
        (output / name).unlink(missing_ok=True)


def measured_speed(file: Path | None) -> float:
    """Return the tokens per second of the plain `gpt1` row, which is what pre-training runs."""
    rows = (
        [json.loads(text) for text in file.read_text().splitlines()]
        if file and file.is_file()
        else []
    )
    found = [
        row["tokens_per_second"] for row in rows if row["name"] == "gpt1" and "error" not in row
    ]
    if not found:
        raise UserError(
            f"{file}: no measured speed of `gpt1`; run speed.py, or give --tokens-per-second"
        )
    return float(found[-1])


def plan(options: argparse.Namespace, speed: float) -> int:
    """Set the steps of run.json by the speed in tokens per second; return their number."""
    file = options.packed / "run.json"
    document = json.loads(file.read_text())
    config = document["config"]
    given = PretrainConfig(**config).scaled()
    warmup = given.warmup / given.max_steps
    tokens = given.batch_size * given.context
    steps = max(options.validations, int(SHARE * speed * options.pretrain / tokens))
    every = -(-steps // options.validations)
    config |= {
        "max_steps": steps, "warmup_steps": min(steps - 1, max(1, round(warmup * steps))),
        "lr": given.lr, "lr_scaling": "none",
        "validate_every": every, "snapshot_every": every, "log_every": min(20, every),
        "preflight": False, "checkpoint_every": 0,
    }  # fmt: skip
    document["runtime"] |= {"device": options.device, "threads": None}
    file.write_text(json.dumps(document, indent=2) + "\n")
    return steps


def pretrain(options: argparse.Namespace, seconds: float) -> int:
    """Run the packed pre-training, its log in RESULTS; return its status, 124 when time ended
    it.
    """
    command = [
        sys.executable, "-m", "gpt1.train.pretrain", "--config", str(options.packed / "run.json"),
    ]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (options.out / "pretrain.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()  # until the device's memory is free again
            status = 124
    for name in CURVES:
        if (options.packed / OUTPUT / name).is_file():
            shutil.copy(options.packed / OUTPUT / name, options.out)
    return status


def newest_model(output: Path) -> Path | None:
    """Return the final weights, else the last snapshot; None where there is neither.

    A kill may have cut off the file that was being written: the one before it counts then.
    """
    snapshots = sorted((output / "snapshots").glob("*.safetensors"), reverse=True)
    for file in (output / MODEL_FILE, *snapshots):
        try:
            load_model(file)
        except UserError:
            continue
        return file
    return None


def finetune(
    options: argparse.Namespace, model: Path | None, began: float
) -> tuple[int, list[str]]:
    """Run the jobs until time ends; return how many were finished and the names of the others."""
    jobs = ordered(read_jobs(options.packed / JOBS_FILE))
    runnable = [job for job in jobs if model or not job.pretrained]
    # `spawn`: a process that was forked could not use the GPU
    pool = ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn"))
    futures: dict[Future[dict[str, Any]], str] = {
        pool.submit(run_one, options.packed, job, model or Path(), options.device): job.name
        for job in runnable
    }
    done, waiting = 0, set(futures)
    left = [job.name for job in jobs if job not in runnable]
    while waiting and (seconds := options.limit - (time.monotonic() - began)) > 0:
        finished, waiting = wait(waiting, seconds, FIRST_COMPLETED)
        for future in finished:
            if error := future.exception():
                print(f"{futures[future]}: {type(error).__name__}: {error}", flush=True)
                left.append(futures[future])
                continue
            done += 1
            append_result(options.out / RESULTS_FILE, future.result())
    left += [futures[future] for future in waiting]
    if waiting:
        for process in multiprocessing.active_children():
            process.kill()
    pool.shutdown(wait=True, cancel_futures=True)
    return done, left


def ordered(jobs: list[FinetuneJob]) -> list[FinetuneJob]:
    """Order jobs by seed, then the long tasks first, then both variants of a task together."""
    rank = {task: place for place, task in enumerate(LARGEST_FIRST)}
    return sorted(
        jobs, key=lambda job: (job.config.seed, rank.get(job.config.task, len(rank)), job.variant)
    )


def run_one(packed: Path, job: FinetuneJob, model: Path, device: str) -> dict[str, Any]:
    """Run one job in a process of the pool, with one CPU thread."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    return run_packed(packed, job, model, torch.device(device))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"benchmarks/gpu/learn.py: {error}", file=sys.stderr)
        sys.exit(2)
