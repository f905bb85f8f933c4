"""`gpt1 plan`, `status` and `graph` of 100, 1,000 and 10,000 finished fine-tuning jobs, with the
store in a folder and in a bucket 5 ms away: seconds of the command, and what it reads.

    python benchmarks/plan.py [--quick] [--finished STORE]

The workflow is that of the tests, every stage with its real settings, and fine-tuning with as many
seeds as it takes; the store holds records as the product writes them and three small files a job
(benchmarks/plan_store.py). Every command is a process of its own. The bucket's server is
benchmarks/s3_server.py. `first`: the host has read nothing of the bucket; `new host`: the same,
when another host has looked before; `stale`: one setting of pre-training differs, so that all jobs
are compared with their records. Then: `gpt1 plan --profile paper` before and after its jobs, and
`gpt1 run` of the demo with nothing to do. `--finished`: a store of a run that has ended; all files
of its records are checked as a run's jobs do, and the seconds compared with those of its jobs.
Shards as large as those of the shared books are checked, too,
against the recorded seconds of making them. `--quick`: 100 and 1,000 jobs. Ends with 1 above a bar.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.plan_store import ROOT, finish, write_task_data, write_workflow
from pipeline.planning.planner import make_plan
from pipeline.store.base import Store
from pipeline.store.objects import ListedObject
from pipeline.store.record import PARTS
from pipeline.store.snapshot import StoreSnapshot
from pipeline.workflow.load import read
from stages.contract import StoredFile

BARS = {"10,000 jobs": 3.0, "paper": 1.0, "nothing to do": 1.0, "checking": 0.02}
"""Seconds of a command; of checking, the share of the jobs' seconds."""
SHARDS = (98_882_405, 248.9)
"""Of the shared books: tokens of two bytes, and the seconds of all stages that make them
(benchmarks/results/corpus.md)."""
DELAY = 0.005  # seconds from the client to the bucket and back
COMMANDS = ("plan", "status", "graph")
STALE = ("--set", "pretrain.max_steps=121")
DONE = "everything is up to date"
EMBEDDED = ("--set", "ingest.source=embedded")


@dataclass
class Counting:
    """The objects of a folder, and how often they are read or listed."""

    objects: Any
    counts: dict[str, int] = field(default_factory=lambda: {"list": 0, "get": 0})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objects, name)

    def read(self, key: str) -> bytes | None:
        self.counts["get"] += 1
        return self.objects.read(key)  # type: ignore[no-any-return]

    def entries(self, prefix: str) -> list[ListedObject]:
        self.counts["list"] += 1
        return self.objects.entries(prefix)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Took:
    """What a command took, and what it printed."""

    seconds: float
    cpu_seconds: float
    said: str


def gpt1(*words: str, environment: Mapping[str, str] | None = None) -> Took:
    """A command of its own. RuntimeError when it fails."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *words], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"gpt1 {' '.join(words)} failed: {done.stderr}")
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(round(seconds, 2), round(cpu, 2), done.stdout)


def folder_counts(workflow: Path, store: Path, assignments: Sequence[str] = ()) -> dict[str, int]:
    """What a plan reads of a folder."""
    opened = Store.at(store)
    counting = Counting(opened.objects)
    make_plan(read(workflow, None, assignments), replace(opened, objects=counting))
    return counting.counts


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A server with the folder's content in a bucket; its address."""
    command = [sys.executable, "-m", "benchmarks.s3_server", str(folder), "--delay", str(DELAY)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.kill()
        server.wait()


def measure(jobs: int, folder: Path) -> list[dict[str, Any]]:
    """All commands on both stores; a row each."""
    workflow, store = write_workflow(folder / f"{jobs}.yaml", jobs), folder / "stores" / "store"
    records = finish(make_plan(read(workflow), Store.at(store)), store)
    rows: list[dict[str, Any]] = []

    def row(where: str, command: str, look: str, took: Took, counts: Mapping[str, int]) -> None:
        found = {"get": counts.get("get", 0), "list": counts.get("list", 0)}
        rows.append(
            {"jobs": jobs, "records": records, "store": where, "command": command, "look": look,
             "seconds": took.seconds, "cpu_seconds": took.cpu_seconds, **found}
        )  # fmt: skip
        print(
            f"| {jobs:,} | {where} | {command} | {look} | {took.seconds:.2f} |"
            f" {took.cpu_seconds:.2f} | {found['get']:,} | {found['list']:,} |",
            flush=True,
        )

    options = ("--file", str(workflow), "--store")
    for command in COMMANDS:
        row("folder", command, "again", gpt1(command, *options, str(store)),
            folder_counts(workflow, store))
    row("folder", "plan", "stale", gpt1("plan", *STALE, *options, str(store)),
        folder_counts(workflow, store, STALE[1:]))
    with serve(folder / "stores") as address:

        def bucket(command: str, look: str, host: str, *more: str) -> None:
            environment = {
                "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "a", "AWS_DEFAULT_REGION": "any",
                "AWS_SECRET_ACCESS_KEY": "a", "GPT1_CACHE": str(folder / host),
            }  # fmt: skip
            words = (command, *more, *options, "s3://bucket/store")
            took = gpt1(*words, environment=environment)
            with urllib.request.urlopen(f"{address}/_counts") as answer:
                row("bucket", command, look, took, json.load(answer))

        bucket("plan", "first", "host1")
        for command in COMMANDS:
            bucket(command, "again", "host1")
        bucket("plan", "stale", "host1", *STALE)
        bucket("plan", "new host", "host2")
    return rows


def measure_paper(folder: Path) -> dict[str, float]:
    """`gpt1 plan --profile paper` of the repository's workflow, with stand-ins for its data."""
    data = ("--set", f"task_data.source={write_task_data(folder / 'data')}")
    store, words = folder / "paper", ("plan", "--profile", "paper", *EMBEDDED, *data)
    gpt1(*words, "--store", str(store))  # takes the digests of outside files
    empty = gpt1(*words, "--store", str(store))
    workflow = read(ROOT / "workflow.yaml", "paper", (EMBEDDED[1], data[1]))
    jobs = finish(make_plan(workflow, Store.at(store)), store)
    full = gpt1(*words, "--store", str(store))
    assert DONE in full.said, full.said[-500:]
    return {"jobs": jobs, "nothing done": empty.seconds, "everything done": full.seconds}


def measure_nothing(folder: Path) -> dict[str, float]:
    """`gpt1 run` of the demo's jobs when all are done."""
    store, words = folder / "demo", ("run", "--profile", "demo")
    jobs = finish(make_plan(read(ROOT / "workflow.yaml", "demo"), Store.at(store)), store)
    gpt1(*words, "--store", str(store))
    took = gpt1(*words, "--store", str(store))
    assert DONE in took.said, took.said[-500:]
    return {"jobs": jobs, "seconds": took.seconds, "cpu_seconds": took.cpu_seconds}


def measure_checking(where: str) -> dict[str, float]:
    """What checking all files of a finished store takes, each once, against what making them took.

    The jobs' seconds are those of their records, each with its parts; the run's, from the first
    job's beginning to the last one's end.
    """
    store = Store.existing(where)
    snapshot = StoreSnapshot(store)
    jobs = [
        record
        for stage in snapshot.stages()
        if not stage.endswith(PARTS)
        for record in snapshot.records(stage)
    ]
    files = {f.key: f for record in jobs for f in record.artifact().files.values()}
    began = time.monotonic()
    for file in files.values():
        store.fetch(file)
    seconds = time.monotonic() - began
    size = sum(file.size for file in files.values())
    of_jobs = sum(record.seconds for record in jobs)
    of_run = max(record.finished for record in jobs) - min(record.started for record in jobs)
    return {
        "jobs": len(jobs), "files": len(files), "MB": round(size / 1e6, 1),
        "seconds": round(seconds, 3), "jobs_seconds": round(of_jobs, 1),
        "run_seconds": round(of_run, 1), "of_jobs": round(seconds / of_jobs, 4),
        "of_run": round(seconds / of_run, 4),
    }  # fmt: skip


def measure_shards(folder: Path) -> dict[str, float]:
    """What checking as many bytes as the shared books' shards have takes, against making them."""
    store, (tokens, making) = Store.at(folder / "shards"), SHARDS
    path = store.new_attempt("shard", "print") / "shard.bin"
    path.write_bytes(os.urandom(2 * tokens))
    key = store.key(path)
    file = StoredFile(path.name, key, 2 * tokens, str(store.objects.sha256(key)))
    began = time.monotonic()
    store.fetch(file)
    seconds = time.monotonic() - began
    return {
        "MB": round(2 * tokens / 1e6, 1), "seconds": round(seconds, 3), "making_seconds": making,
        "of_making": round(seconds / making, 4),
    }  # fmt: skip


def judge(found: Mapping[str, Any]) -> dict[str, bool]:
    """Which bars hold. A host's first look at a bucket has none."""
    rows = found["rows"]
    first = ("first", "new host")
    long = [r["seconds"] for r in rows if r["jobs"] == 10_000 and r["look"] not in first]
    reads = (row["get"] <= row["records"] + row["list"] for row in rows)
    passed = {
        "10,000 jobs": max(long, default=0.0) <= BARS["10,000 jobs"],
        "paper": max(list(found["paper"].values())[1:]) <= BARS["paper"],
        "nothing to do": found["nothing to do"]["seconds"] <= BARS["nothing to do"],
        "reads at most the records": all(reads),
    }
    shares = [found["shards"]["of_making"], found.get("checking", {}).get("of_run", 0.0)]
    passed["checking"] = max(shares) <= BARS["checking"]
    return passed


def main() -> int:
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 jobs")
    parser.add_argument("--finished", help="a store of a run that has ended")
    given = parser.parse_args()
    os.environ.pop("GPT1_STORE", None)
    found: dict[str, Any] = {"quick": given.quick, "machine": _machine(), "bars": BARS}
    print("| jobs | store | command | look | seconds | CPU seconds | objects read | listings |")
    print("|--:|---|---|---|--:|--:|--:|--:|", flush=True)
    found["rows"] = []
    for jobs in (100, 1_000) if given.quick else (100, 1_000, 10_000):
        with tempfile.TemporaryDirectory(prefix="gpt1-plan-") as name:
            found["rows"] += measure(jobs, Path(name))
    with tempfile.TemporaryDirectory(prefix="gpt1-plan-") as name:
        found["paper"] = measure_paper(Path(name))
        found["nothing to do"] = measure_nothing(Path(name))
        found["shards"] = measure_shards(Path(name))
    if given.finished:
        found["checking"] = measure_checking(given.finished)
    for part in ("paper", "nothing to do", "shards", "checking"):
        print(f"{part}: {found.get(part, 'not measured')}")
    found["passed"] = judge(found)
    print(json.dumps(found))
    return 0 if all(found["passed"].values()) else 1


def _machine() -> str:
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores of {cpu}, Python {platform.python_version()}, load {load:.1f}"


if __name__ == "__main__":
    sys.exit(main())
