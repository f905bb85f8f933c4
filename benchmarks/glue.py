"""Does pre-training help?

Every task beside the project, from a pre-trained model and from random weights, paired over the
seeds.

    python benchmarks/glue.py --store STORE [--profile rehearsal] [--books FOLDER] [--data FOLDER]
        [--only-read]

Runs benchmarks/glue.yaml (pre-training, then 10 tasks x 3 seeds x 2 variants), then compares. What
is done stays done: the same command goes on after an interruption. `--set stage.key=value` is
passed on.

Method. d(seed, task) is the score with pre-training less that without, of the same task, rows,
order of examples and seed; a task with two figures counts with their mean
(gpt1/tasks/metrics.py), in points of the GLUE server's metrics on dev. For each seed the mean of d
over the eight tasks (WNLI is left out: its dev labels contradict its training labels on purpose);
the interval is Student's t over the seeds' means, n - 1 degrees of freedom. A task counts as higher
when its mean of d over the seeds is above 0. Beside it a bootstrap over the tasks (10,000 draws of
their mean differences): how far the verdict depends on which tasks were chosen. Exit status: 0 when
the t-interval is above 0 and six of eight tasks are higher, else 1; 2 where something is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.errors import UserError
from gpt1.tasks.metrics import glue_value
from gpt1.tasks.registry import TASKS

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "glue.yaml"
EIGHT = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
WITH, WITHOUT = "full", "no_pretraining"
DRAWS = 10_000
Scores = dict[tuple[str, str, int], dict[str, Any]]
"""scores.json by task, variant and seed."""


def main() -> int:
    """Run the workflow, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--profile", help="`rehearsal`: tiny, to see that it runs")
    parser.add_argument(
        "--books", type=Path,
        help="a folder of .txt books; shared books are unpacked when not given",
    )
    parser.add_argument(
        "--data", type=Path, help="the tasks' folder; shared archives are unpacked when not given"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="STAGE.KEY=VALUE",
        help="passed on to gpt1 run",
    )
    parser.add_argument(
        "--only-read", action="store_true", help="run nothing; compare what the store holds"
    )
    words = parser.parse_args()
    common = ["--file", str(FILE), "--store", str(words.store)] + (
        ["--profile", words.profile] if words.profile else []
    )
    with tempfile.TemporaryDirectory(prefix="gpt1-glue-") as scratch:
        data = words.data or unpack("tasks/*.tar.xz", Path(scratch) / "data")
        given = [
            *words.set,
            *(f"{stage}.source={data}" for stage in ("task_data", "race_data", "dpr_data")),
        ]
        if words.profile != "rehearsal":
            given.append(
                f"ingest.source={words.books or unpack('books/*.tar.bz2', Path(scratch) / 'books')}"
            )
        common += [word for assignment in given for word in ("--set", assignment)]
        if not words.only_read:
            status = gpt1("run", *common).returncode
            if status:
                return status
        cells = json.loads(gpt1("status", "--json", *common, capture_output=True).stdout)["cells"]
    return report(read(words.store, cells))


def unpack(pattern: str, folder: Path) -> Path:
    """Unpack archives of the real data beside the project, with the folders beside them;
    UserError where there are none.
    """
    shared = Path(os.environ.get("GPT1_SHARED", ROOT.parent / "shared")) / "data"
    archives = sorted(shared.glob(pattern))
    if not archives:
        raise UserError(
            f"{shared / pattern}: no such file; set GPT1_SHARED to the folder that holds data/, or"
            " give --books and --data"
        )
    for archive in archives:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    for plain in (path for path in shared.glob(f"{Path(pattern).parent}/*") if path.is_dir()):
        shutil.copytree(plain, folder / plain.name)
    return folder


def gpt1(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command, from the project's folder."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "pipeline.cli", *words]
    return subprocess.run(
        command, text=True, check=False, env={**os.environ, "PYTHONPATH": path}, **options
    )


def read(store: Path, cells: Sequence[Mapping[str, Any]]) -> Scores:
    """The scores of all finished fine-tuning jobs of this workflow, as the store's records point
    to them.
    """
    found: Scores = {}
    for cell in cells:
        if cell["stage"] != "finetune" or cell["state"] != "done":
            continue
        record = json.loads(
            (store / "finetune" / cell["fingerprint"] / "record.json").read_text(encoding="utf-8")
        )
        scores = json.loads(
            (store / record["files"]["scores.json"]["key"]).read_text(encoding="utf-8")
        )
        found[scores["task"], scores["variant"], scores["seed"]] = scores
    return found


def differences(
    scores: Scores, tasks: Sequence[str] = EIGHT
) -> tuple[list[str], list[int], np.ndarray]:
    """Tasks that ran in both variants for every seed, the seeds, and d (seeds x tasks) in
    points.
    """
    seeds = sorted(
        {seed for _, variant, seed in scores if variant == WITH}
        & {seed for _, variant, seed in scores if variant == WITHOUT}
    )
    whole = [
        t
        for t in tasks
        if all((t, variant, seed) in scores for variant in (WITH, WITHOUT) for seed in seeds)
    ]
    value = {
        key: glue_value(key[0], found["values"]) for key, found in scores.items() if key[0] in whole
    }
    return (
        whole, seeds,
        np.array([[value[t, WITH, s] - value[t, WITHOUT, s] for t in whole] for s in seeds]),
    )


def t_interval(values: np.ndarray) -> tuple[float, float]:
    """Student's 95 % interval of the mean; (nan, nan) of a single value."""
    from scipy import stats

    if len(values) < 2:
        return float("nan"), float("nan")
    reach = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return float(values.mean()) - reach, float(values.mean()) + reach


def task_bootstrap(means: np.ndarray, seed: int = 1) -> tuple[float, float]:
    """The middle 95 % of the mean over tasks drawn with replacement."""
    draws = np.random.default_rng(seed).integers(0, len(means), (DRAWS, len(means)))
    low, high = np.percentile(means[draws].mean(1), [2.5, 97.5])
    return float(low), float(high)


def report(scores: Scores) -> int:
    """Print the table and the JSON line; 1 where pre-training is not shown to help."""
    tasks, seeds, found = differences(scores)
    if not tasks or not seeds:
        raise UserError(
            f"{len(scores)} finished jobs hold no task in both variants for the same seed; run"
            " without --only-read"
        )
    print("task         with  without  difference  dev rows  train rows (of the publisher's)")
    for task in [*dict.fromkeys(task for task, _, _ in scores)]:
        print(line(task, scores))
    means, by_seed = found.mean(0), found.mean(1)
    low, high = t_interval(by_seed)
    around = task_bootstrap(means)
    higher = int((means > 0).sum())
    print(
        f"mean over {len(tasks)} GLUE tasks, seeds {seeds}: {by_seed.mean():+.2f} points; higher in"
        f" {higher} of {len(tasks)}"
    )
    print(
        f"95 % intervals: {low:+.2f} to {high:+.2f} (t over seeds), {around[0]:+.2f} to"
        f" {around[1]:+.2f} (bootstrap over tasks)"
    )
    passed = bool(len(tasks) == len(EIGHT) and low > 0 and higher >= 6)
    by_task = {task: round(float(mean), 3) for task, mean in zip(tasks, means, strict=True)}
    print(json.dumps({
        "benchmark": "glue", "tasks": tasks, "seeds": seeds, "difference": by_task,
        "by_seed": [round(float(value), 3) for value in by_seed],
        "mean": round(float(by_seed.mean()), 3),
        "t_interval_over_seeds": None if np.isnan(low) else [round(low, 3), round(high, 3)],
        "bootstrap_over_tasks": [round(value, 3) for value in around], "higher": higher,
        "passed": passed,
    }))  # fmt: skip
    return 0 if passed else 1


def line(task: str, scores: Scores) -> str:
    """One task: medians over the seeds in points of its GLUE figure (others: their first
    metric).
    """

    def median(variant: str) -> float:
        found = [one for (name, kind, _), one in scores.items() if (name, kind) == (task, variant)]
        values = [
            (
                glue_value(task, one["values"])
                if task in (*EIGHT, "wnli")
                else one["values"][one["metric"]]
            )
            for one in found
        ]
        return float(np.median(values)) if values else float("nan")

    one = next(found for (name, _, _), found in scores.items() if name == task)
    official = one["official_rows"].get("train")
    rows = f"{one['train_rows']:,} of {official:,}" if official else f"{one['train_rows']:,}"
    before, after = median(WITHOUT), median(WITH)
    return (
        f"{TASKS[task].title:<11} {after:6.2f}   {before:6.2f}      {after - before:+6.2f}   "
        f" {one['n']:6,}  {rows}"
    )


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        print(f"benchmarks/glue.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
