"""Run the fine-tuning jobs of a packed folder (`gpt1 pack`) one after another, without stages:

python -m gpt1.tasks.finetune_packed --config FOLDER/finetune.json

FOLDER has finetune.json, tasks/NAME/ and output/, where pre-training leaves its model. Each
finished job appends a line to output/finetune.jsonl; after an interruption, the same command
resumes with the next job. A script that runs several jobs at once calls `read_jobs`, `run_packed`
and `append_result` (benchmarks/gpu/learn.py does).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from gpt1.errors import UserError
from gpt1.rng import use_threads
from gpt1.tasks.dataset import TokenizedTexts
from gpt1.tasks.finetune import FinetuneJob, run_job
from gpt1.tasks.io import TASK_FILE, Example, load_task, sample_places
from gpt1.tasks.metrics import score_line
from gpt1.terminal import show
from gpt1.tokenizer.vocabulary import Vocabulary
from gpt1.train.checkpoint import file_sha256
from gpt1.train.trainer import ConsoleReporter, Reporter
from gpt1.weights.store import MODEL_FILE

JOBS_FILE = "finetune.json"
TASKS_FOLDER = "tasks"
OUTPUT = "output"
RESULTS_FILE = "finetune.jsonl"
ROWS_SEED = 1
"""Seed of the draw of `rows`: task_data's default, whose `train_rows` so draws the same ones."""
PROGRESS_SECONDS = 30.0


def jobs_json(jobs: Sequence[FinetuneJob]) -> str:
    """The content of finetune.json."""
    return json.dumps({"jobs": [job.to_dict() for job in jobs]}, indent=2) + "\n"


def read_jobs(config: Path) -> list[FinetuneJob]:
    """The jobs of a finetune.json, in its order. UserError where it is missing or another file."""
    try:
        document = json.loads(config.read_text(encoding="utf-8"))
        return [FinetuneJob.from_dict(job) for job in document["jobs"]]
    except OSError as error:
        problem = f"cannot be read ({error.strerror})" if config.exists() else "no such file"
        expected = f"expected the {JOBS_FILE} of a folder written by `gpt1 pack`"
        raise UserError(f"{config}: {problem}; {expected}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        message = f"{config}: not the jobs of a packed folder ({reason}); run `gpt1 pack` again"
        raise UserError(message) from error


def run_packed(
    folder: Path, job: FinetuneJob, model: Path, device: torch.device, *, rows: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Run one job with the data of `folder`, from the pre-trained `model` (a file or folder).

    The variant no_pretraining does not read `model`. `rows`: at most that many training examples,
    the same ones for every job. Returns the row of finetune.jsonl, which it does not write: plain
    values, scores in per cent. Raises UserError where files are missing or do not fit together.
    """
    begun = time.perf_counter()
    settings, config = _settings(job, rows, model), job.config
    data = folder / TASKS_FOLDER / config.task
    train, dev, test = (data / f"{split}.jsonl" for split in ("train", "dev", "test"))
    try:
        files = load_task(data / TASK_FILE, train, dev, test if test.exists() else None)
    except FileNotFoundError as error:
        message = f"{error.filename}: no such file; pack {config.task} again, or choose other tasks"
        raise UserError(message) from error
    packed = files.train
    places = sample_places(len(packed), rows, ROWS_SEED, "train")
    files = replace(files, train=[packed[place] for place in places])

    def texts(name: str, examples: Sequence[Example]) -> TokenizedTexts:
        path = data / f"{name}.safetensors"
        if name == "train":
            return TokenizedTexts.load(path, packed).select(packed, places)
        return TokenizedTexts.load(path, examples)

    gpt = job.model(model)
    reporter = reporter or _Reporter(job.name)
    decode = None
    if files.task.kind == "generation":
        decode = Vocabulary.load(folder / OUTPUT).decode
    found = run_job(job, files, texts, gpt, device, reporter, decode)
    score = found.result.score
    assert score is not None
    reporter.info(score_line(job.name, score))
    return {
        "job": job.id, "task": config.task, "variant": job.variant, "seed": config.seed,
        **score.to_dict(), "best_epoch": found.result.best_epoch, "train_rows": len(files.train),
        "train_rows_in_source": files.facts["rows_in_source"]["train"], "dev_rows": len(files.dev),
        "test": found.test_score.to_dict() if found.test_score else None, "cut": dict(found.cut),
        "max_length": config.max_length or gpt.config.context, "precision": config.precision,
        "seconds": round(time.perf_counter() - begun, 3),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "settings": settings,
    }  # fmt: skip


def append_result(results: Path, row: dict[str, Any]) -> None:
    """Add a row of `run_packed` to a file of results, on disk when this returns."""
    with results.open("ab") as file:
        file.write(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The folder's results so far. A last line that a kill has torn is cut off the file."""
    file = folder / OUTPUT / RESULTS_FILE
    if not file.exists():
        return []
    content = file.read_bytes()
    lines = content[: content.rfind(b"\n") + 1]
    if lines != content:
        os.truncate(file, len(lines))
    try:
        return [json.loads(line) for line in lines.splitlines()]
    except ValueError as error:
        message = f"{file}: a line is not JSON ({error}); delete it, and its job will run again"
        raise UserError(message) from error


def _settings(job: FinetuneJob, rows: int | None, model: Path) -> dict[str, Any]:
    """Everything a result depends on but the device and the folder's data."""
    weights = model / MODEL_FILE if model.is_dir() else model
    if not job.pretrained:
        return {"job": job.to_dict(), "rows": rows, "model_sha256": ""}
    if not weights.is_file():
        raise UserError(
            f"{weights}: no such file, and {job.id} starts from a pre-trained model; run the "
            "folder's pre-training first, name one with --model, or use --variant no_pretraining"
        )
    digest = _digest(weights, weights.stat().st_mtime_ns)
    return {"job": job.to_dict(), "rows": rows, "model_sha256": digest}


@lru_cache(maxsize=1)
def _digest(weights: Path, changed: int) -> str:  # noqa: ARG001
    """The sha256 of a file as it was last `changed`: all jobs of a command start from one model."""
    return file_sha256(weights)


class _Reporter(ConsoleReporter):
    """Prints a job's lines, and every `PROGRESS_SECONDS` how far it is."""

    def __init__(self, name: str) -> None:
        self._name, self._next = name, time.monotonic() + PROGRESS_SECONDS

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            super().progress(done, total, unit, note or f"{self._name}: {done:g}/{total:g} {unit}")


def _choose(jobs: Sequence[FinetuneJob], arguments: argparse.Namespace) -> list[FinetuneJob]:
    """The jobs that the command line names, with its settings."""
    found = list(jobs)
    for option in ("task", "variant", "seed"):
        wanted = getattr(arguments, option) or ()
        values = {job.id: {**vars(job), **vars(job.config)}[option] for job in jobs}
        for value in wanted:
            if value not in values.values():
                names = ", ".join(dict.fromkeys(map(str, values.values())))
                raise UserError(
                    f"--{option} {value}: no such job; {arguments.config} has: {names}"
                )
        found = [job for job in found if not wanted or values[job.id] in wanted]
    if not found:
        raise UserError(f"{arguments.config}: no job matches all options; drop one of them")
    given = {"max_length": arguments.max_length, "precision": arguments.precision}
    own = {setting: value for setting, value in given.items() if value}
    return [replace(job, config=job.config.model_copy(update=own)) for job in found]


def positive_int(text: str) -> int:
    """A whole number of at least 1. argparse.ArgumentTypeError for anything else."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least 1")
    return int(text)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch finds no GPU; use --device cpu, or fix the driver"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _run(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.config.parent
    jobs = _choose(read_jobs(arguments.config), arguments)
    model, device = arguments.model or folder / OUTPUT / MODEL_FILE, _device(arguments.device)
    if arguments.threads:
        use_threads(arguments.threads, device)
    # All of them before the first job, which may take hours.
    wanted = [_settings(job, arguments.rows, model) for job in jobs]
    finished = [row["settings"] for row in read_results(folder)]
    for job, settings in zip(jobs, wanted, strict=True):
        if settings in finished:
            where = f"{OUTPUT}/{RESULTS_FILE}"
            show(f"{job.name}: already in {where} with the same settings")
            continue
        row = run_packed(folder, job, model, device, rows=arguments.rows)
        append_result(folder / OUTPUT / RESULTS_FILE, row)


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="FOLDER/finetune.json")
    parser.add_argument(
        "--model", type=Path, help="pre-trained weights (default: output/model.safetensors)"
    )
    parser.add_argument("--task", action="append", help="run only this task; repeatable")
    parser.add_argument("--variant", action="append", help="run only this variant; repeatable")
    parser.add_argument("--seed", action="append", type=int, help="run only this seed; repeatable")
    parser.add_argument("--rows", type=positive_int, help="number of training rows to draw")
    parser.add_argument("--max-length", type=positive_int, help="maximum sequence length in tokens")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="compute precision")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=positive_int, help="number of CPU threads")
    try:
        _run(parser.parse_args())
    except UserError as error:
        show(f"error: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
