"""Real books from their archives to token shards, through the workflow on Ray: seconds and memory
of every stage.

    python benchmarks/corpus.py [--quick] [--cores 2] [--store FOLDER]

Runs ingest, clean, split with near copies, vocabulary (40,000 merges) and shard on the shared books
(451 MB in five archives), then vocabulary and shard once more with the published vocabulary on the
same clean text. `--quick` takes the first 20 MB of the first archive and judges nothing but that
everything was made. Memory is the proportional set size of the run and of all that it started, Ray
included, looked at twice a second. Ends with 1 above a bar.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("GPT1_SHARED", ROOT.parent / "shared"))
STAGES = ("ingest", "clean", "split", "vocabulary", "shard")
# What must hold on two cores: seconds for the named stages together, and GB for everything at once.
BARS = {"ingest+clean": 240.0, "ingest+clean+split": 480.0, "vocabulary+shard": 300.0, "GB": 4.0}
QUICK_BYTES = 20_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="20 MB of one archive, without bars on time"
    )
    parser.add_argument("--cores", type=int, default=2, help="workers at a time")
    parser.add_argument(
        "--store", type=Path, help="keep the store there; made anew it must be empty"
    )
    arguments = parser.parse_args()
    books, published = SHARED / "data" / "books", SHARED / "gpt1_bpe"
    if not books.is_dir():
        print(
            f"{books}: no such folder; GPT1_SHARED must name the folder of the shared data",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="gpt1-corpus-") as scratch:
        source = _some_books(books, Path(scratch) / "books") if arguments.quick else books
        store = arguments.store or Path(scratch) / "store"
        learned = _run(source, store, Path(scratch), arguments.cores, {})
        taken = _run(
            source, store, Path(scratch), arguments.cores, {"vocabulary.source": str(published)}
        )
    found = _figures(learned, taken, arguments)
    _print(found)
    print(json.dumps(found))
    return 0 if found["passed"] else 1


def _some_books(books: Path, folder: Path) -> Path:
    """The first books of the first archive, as files."""
    taken = 0
    with tarfile.open(books / "books-00.tar.bz2", "r|bz2") as archive:
        for member in archive:
            if taken >= QUICK_BYTES:
                break
            if member.isfile() and (data := archive.extractfile(member)) is not None:
                path = folder / f"{taken:09d}.txt"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data.read())
                taken += member.size
    return folder


def _run(
    source: Path, store: Path, scratch: Path, cores: int, changed: dict[str, Any]
) -> dict[str, Any]:
    """`gpt1 run` of the text stages; what each stage took and said, and the peak of memory in
    GB.
    """
    workers = {"resources": {"workers": cores}}
    stages: dict[str, Any] = {
        "ingest": {"with": {"source": str(source), "num_partitions": 64}, **workers},
        "clean": {"needs": ["ingest"], **workers},
        "split": {
            "needs": ["clean"], **workers,
            "with": {"held_out": 0.01, "held_out_tail": 0.02, "seed": 1},
        },
        "vocabulary": {"needs": ["clean", "split"], "with": {"num_merges": 40_000}, **workers},
        "shard": {"needs": ["clean", "split", "vocabulary"], **workers},
    }
    workflow = scratch / "corpus.yaml"
    workflow.write_text(yaml.safe_dump({"name": "corpus", "stages": stages}, sort_keys=False))
    command = [
        sys.executable, "-m", "pipeline.cli", "run", "--file", str(workflow), "--store", str(store),
    ]
    for key, value in changed.items():
        command += ["--set", f"{key}={value}"]
    began = time.monotonic()
    run = subprocess.Popen(command, cwd=ROOT)
    peak = _Peak(run.pid)
    if run.wait():
        raise SystemExit(f"the run ended with status {run.returncode}")
    seconds = time.monotonic() - began
    return {"seconds": seconds, "GB": peak.stop(), "stages": _records(store, began)}


def _records(store: Path, began: float) -> dict[str, Any]:
    """Seconds and summary of each stage that was made since `began` (on this process's clock),
    the newest of each kind.
    """
    since = time.time() - (time.monotonic() - began)
    found = {}
    for stage in STAGES:
        records = [json.loads(path.read_bytes()) for path in (store / stage).glob("*/record.json")]
        newest = max(records, key=lambda record: record["finished"])
        if newest["finished"] >= since:
            found[stage] = {"seconds": newest["seconds"], **newest["summary"]}
    return found


class _Peak:
    """The largest memory that a process and all its descendants hold together."""

    def __init__(self, pid: int) -> None:
        self._process, self._peak, self._over = psutil.Process(pid), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """The peak, in GB."""
        self._over.set()
        self._thread.join()
        return self._peak / 1e9

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            try:
                processes = [self._process, *self._process.children(recursive=True)]
            except psutil.Error:
                return
            self._peak = max(self._peak, sum(map(_pss, processes)))


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _figures(
    learned: dict[str, Any], taken: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    seconds = {stage: learned["stages"][stage]["seconds"] for stage in STAGES}
    together = {
        "ingest+clean": seconds["ingest"] + seconds["clean"],
        "ingest+clean+split": seconds["ingest"] + seconds["clean"] + seconds["split"],
        "vocabulary+shard": seconds["vocabulary"] + seconds["shard"], "GB": learned["GB"],
    }
    ingest, clean, split, shard = (
        learned["stages"][stage] for stage in ("ingest", "clean", "split", "shard")
    )
    return {
        "quick": arguments.quick, "cores": arguments.cores, "books": ingest["books"],
        "MB": ingest["bytes"] / 1e6, "words": ingest["words"], "seconds": seconds,
        "whole_seconds": learned["seconds"], "together": together, "bars": BARS,
        "cleaned_MB": clean["bytes"] / 1e6, "near_copies": split["near_duplicate_books"],
        "word_types": learned["stages"]["vocabulary"]["word_types"], "learned": _encoded(shard),
        "published": _encoded(taken["stages"]["shard"]),
        "published_seconds": taken["stages"]["shard"]["seconds"],
        "passed": arguments.quick or all(together[name] <= bar for name, bar in BARS.items()),
    }  # fmt: skip


def _encoded(shard: dict[str, Any]) -> dict[str, Any]:
    tokens = shard["train_tokens"] + shard["held_out_tokens"]
    return {
        "tokens": tokens,
        **{key: shard[key] for key in ("tokens_per_word", "tokens_per_byte", "unknown_rate")},
    }


def _print(found: dict[str, Any]) -> None:
    print(
        f"\n{found['books']:,} books, {found['MB']:.1f} MB, {found['words']:,} words,"
        f" {found['cores']} workers"
    )
    for stage, seconds in found["seconds"].items():
        print(f"  {stage:<12}{seconds:7.1f} s")
    for name, value in found["together"].items():
        unit = "GB" if name == "GB" else "s"
        print(
            f"  {'memory at most' if name == 'GB' else name}: {value:.1f} {unit} (bar"
            f" {found['bars'][name]:.0f} {unit})"
        )
    for name in ("learned", "published"):
        row = found[name]
        print(
            f"  {name} vocabulary: {row['tokens']:,} tokens, {row['tokens_per_word']:.4f} a word, "
            f"{row['tokens_per_byte']:.4f} a byte, unknown {row['unknown_rate']:.2e}"
        )


if __name__ == "__main__":
    sys.exit(main())
