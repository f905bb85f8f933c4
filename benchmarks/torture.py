"""Faults of all kinds on a small workflow, and whether the same command repairs each of them.

    python benchmarks/torture.py [--quick] [--only SEED ...] [--keep FOLDER]     needs root: mounts

270 faults on copies of a finished store (damaged files, records, leases, caches, events and data
bases; moved, copied, read-only stores; wrong clocks; left-over files), 30 on runs under way
(killed, frozen, taken over, full disk, MLflow away). After each one the same `gpt1 run` and `gpt1
track sync` are given until they end well, three times at most. torture_checker.py, which imports
nothing of the product, then compares all that is left with an undisturbed run: `lost`: results or
points are missing; `silent`: outputs differ, points or runs are there twice, or damage was not
said; `unmended`: not repaired, or a process or lease is left; `bad_messages`: a crash, a wrong exit
status, no cause. All four must be 0. Then faults are planted in copies of the code (PLANTED): the
checker must catch each. Ends with 1 otherwise. `--only` repeats cases by their seeds and prints
what their commands said; `--quick`: every thirtieth case, one on a run, and one planted fault.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.torture_checker import COUNTS, Evidence, Expected, Problem, expected, judge
from benchmarks.torture_faults import AT_REST, CASES, ROOT
from tests.servers.ray_cluster import Cluster, ray_cluster

NUMBERS = (1, 2, 3)
LANES = 2  # stores that are worked at together
CPUS = 4  # of Ray: jobs and parts wait, they do not compute
GOLDEN = -1
QUICK = ("sigterm",)
COPIED = ("benchmarks", "gpt1", "pipeline", "stages", "tests")


@dataclass(frozen=True)
class Planted:
    """A fault of the product: in `file`, the first text becomes the second. A case of `kind` must
    be found wrong.
    """

    name: str
    file: str
    before: str
    after: str
    kind: str


PLANTED = (
    Planted("a file is used unchecked", "pipeline/store/base.py",
            "found == file.sha256", "found", "file"),
    Planted("points of every attempt are sent", "pipeline/tracking/exporter.py",
            "if is_again or step not in steps:", "if True:", "kill_in_curve"),
    Planted("a lease is taken from the living", "pipeline/store/lease.py",
            "            if alive:", "            if False:", "two_drivers"),
    Planted("SIGTERM is not heard", "pipeline/execution/shutdown.py",
            "self._asked.set()", "pass", "sigterm"),
    Planted("a record is published over another one", "pipeline/store/base.py",
            "won = not (last.record or last.problem)", "won = True", "frozen"),
)  # fmt: skip
"""The first one for --quick."""


class Lane:
    """A process of torture_faults.py."""

    def __init__(self, folder: Path, cluster: Cluster, tree: Path = ROOT) -> None:
        variables = {
            "PYTHONPATH": str(tree), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1",
            "MLFLOW_LOGGING_LEVEL": "CRITICAL",
        }  # fmt: skip
        env = {name: value for name, value in os.environ.items() if not name.startswith("GPT1_")}
        folder.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.torture_faults", str(folder), cluster.gcs],
            cwd=tree, env={**env, **variables}, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip

    def do(self, seed: int) -> Evidence:
        """Do a case. RuntimeError where the case itself cannot be done."""
        assert self._process.stdin
        assert self._process.stdout
        print(seed, file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline() or '{"broken": "the lane has ended"}')
        if "broken" in answer:
            raise RuntimeError(f"case {seed}: {answer['broken']}")
        return Evidence.of(answer)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@dataclass
class Found:
    """What all cases have shown."""

    faults: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    tries: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    """Of all commands, by kind."""
    seeds: list[int] = field(default_factory=list)
    """Of cases that ended wrong."""

    def add(self, evidence: Evidence, problems: Sequence[Problem]) -> None:
        """Count a case, and print what is wrong with it."""
        self.faults += 1
        self.kinds[evidence.kind] += 1
        self.tries[evidence.tries] += 1
        self.seconds[evidence.kind] += round(sum(one.seconds for one in evidence.commands))
        self.wrong.update({problem.count for problem in problems})
        if problems:
            self.seeds.append(evidence.seed)
            print(f"--only {evidence.seed}: {evidence.kind}: {evidence.detail}")
            for problem in problems:
                print(f"    {problem.count}: {problem.text}", flush=True)


def main() -> int:
    """Make the undisturbed store, then the faults, then the planted ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--only", type=int, nargs="*", help="these cases; none: the planted faults")
    parser.add_argument("--keep", type=Path, help="a folder for all stores and outputs")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # end Ray, too
    began, found = time.monotonic(), Found()
    with tempfile.TemporaryDirectory(prefix="gpt1-torture-") as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "numbers").mkdir()
        for number in NUMBERS:
            (folder / "numbers" / f"{number}.txt").write_text(str(number))
        with ray_cluster(folder / "ray.log", cpus=CPUS) as cluster, lanes(folder, cluster) as pool:
            problems = judge(golden := pool[0].do(GOLDEN), right := expected(folder / "golden"))
            assert not problems, (problems, golden)
            for seeds in batches(given.quick, given.only):
                do_all(pool, seeds, right, found, bool(given.only))
            planted = {} if given.only else plant_all(folder, cluster, right, given.quick)
    result = {
        "quick": given.quick, "machine": machine(), "faults": found.faults,
        **{count: found.wrong[count] for count in COUNTS},
        "planted": f"{sum(planted.values())} of {len(planted)}",
        "tries": {str(tries): times for tries, times in sorted(found.tries.items())},
        "kinds": dict(found.kinds), "seeds": sorted(found.seeds),
        "seconds": round(time.monotonic() - began), "seconds of kinds": dict(found.seconds),
    }  # fmt: skip
    print(json.dumps(result))
    return int(bool(found.seeds) or not all(planted.values()))


def batches(quick: bool, only: Sequence[int] | None) -> list[list[int]]:
    """The seeds of the cases on finished stores, which are done together, and each one on a run,
    which has the machine for itself.
    """
    at_rest = sum(AT_REST.values())
    seeds = list(range(len(CASES)) if only is None else only)
    if quick:
        names = [kind.__name__ for kind in CASES]
        return [[*map(names.index, QUICK), *range(0, at_rest, 30)]]
    alone = [seed for seed in seeds if seed >= at_rest]
    return [[seed for seed in seeds if seed < at_rest], *([seed] for seed in alone)]


@contextmanager
def lanes(folder: Path, cluster: Cluster) -> Iterator[list[Lane]]:
    """Processes that work at cases."""
    pool = [Lane(folder, cluster) for _ in range(LANES)]
    try:
        yield pool
    finally:
        for lane in pool:
            lane.close()


def do_all(
    pool: Sequence[Lane], seeds: Sequence[int], right: Expected, found: Found, show: bool
) -> None:
    """Do and judge cases, in all lanes at the same time."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for seed in seeds:
        waiting.put(seed)
    lock = threading.Lock()

    def work(lane: Lane) -> None:
        while True:
            try:
                seed = waiting.get_nowait()
            except queue.Empty:
                return
            evidence = lane.do(seed)
            problems = judge(evidence, right)
            with lock:
                found.add(evidence, problems)
                if show:
                    print_commands(evidence)
                shutil.rmtree(evidence.folder, ignore_errors=True)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in pool]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def print_commands(evidence: Evidence) -> None:
    """What the commands of a case said."""
    print(f"case {evidence.seed}: {evidence.kind}: {evidence.detail}")
    for command in evidence.commands:
        print(f"$ gpt1 {' '.join(command.words)}  # {command.status} in {command.seconds} s")
        print(command.out + command.err, flush=True)


def plant_all(folder: Path, cluster: Cluster, right: Expected, quick: bool) -> dict[str, bool]:
    """Whether the checker catches each planted fault."""
    caught = {}
    for planted in PLANTED[:1] if quick else PLANTED:
        caught[planted.name] = plant(planted, folder, cluster, right)
    return caught


def plant(planted: Planted, folder: Path, cluster: Cluster, right: Expected) -> bool:
    """Do cases of its kind with one fault in a copy of the code, until one is found wrong."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored, symlinks=True)
    file = tree / planted.file
    text = file.read_text(encoding="utf-8")
    if (times := text.count(planted.before)) != 1:
        print(f"{planted.name}: {planted.file} has {planted.before!r} {times} times")
        return False
    file.write_text(text.replace(planted.before, planted.after), encoding="utf-8")
    seeds = [seed for seed, kind in enumerate(CASES) if kind.__name__ == planted.kind]
    lane = Lane(folder, cluster, tree)
    for seed in seeds[:8]:
        evidence = lane.do(seed)
        problems = judge(evidence, right)
        shutil.rmtree(evidence.folder)
        if problems:
            print(f"{planted.name}: caught by case {seed}: {problems[0].text}")
            break
    lane.close()
    return bool(problems)


def machine() -> str:
    """What this ran on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} cores of {cpu}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
