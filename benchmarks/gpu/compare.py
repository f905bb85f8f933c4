"""Make the table of a GPU trial: speed, pre-training, and GLUE beside the paper's.

    python benchmarks/gpu/compare.py RESULTS [--markdown FILE]

RESULTS holds what speed.py and learn.py wrote; a file that is missing is a part that did not run.
GLUE on dev: medians over the seeds; a task with two figures counts with their mean
(gpt1/tasks/metrics.py), where the paper's table 5 has F1 and Pearson's correlation alone, on test.
Only jobs count whose task ran with the same seed in both variants. The mean over tasks has a
bootstrap over tasks (10,000 draws of their mean differences); tasks that ran for two seeds or more
have Student's t over the seeds, each by itself. Exit status 0 when the interval over tasks lies
above 0, else 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.glue import (  # noqa: E402
    EIGHT,
    WITH,
    WITHOUT,
    Scores,
    differences,
    t_interval,
    task_bootstrap,
)
from gpt1.errors import UserError  # noqa: E402
from gpt1.report.tables import PUBLISHED  # noqa: E402
from gpt1.tasks.metrics import glue_value  # noqa: E402


def main() -> int:
    """Print the tables and the JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument("--markdown", type=Path, help="also write the tables here")
    options = parser.parse_args()
    if not options.results.is_dir():
        raise UserError(f"{options.results}: no such folder; expected the results of learn.py")
    speed, pretraining = (
        rows(options.results / "speed.jsonl"),
        rows(options.results / "metrics.jsonl"),
    )
    scores: Scores = {
        (row["task"], row["variant"], row["seed"]): row
        for row in rows(options.results / "finetune.jsonl")
    }
    tables, verdict, passed = [], {}, False
    if speed:
        tables.append(speed_table(speed))
    if pretraining:
        tables.append(pretraining_table(pretraining))
    if scores:
        table, verdict, passed = glue_table(scores)
        tables.append(table)
    text = "\n\n".join(tables)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    print(json.dumps({"benchmark": "gpu/compare", **verdict, "passed": passed}))
    return 0 if passed else 1


def rows(file: Path) -> list[dict[str, Any]]:
    """Read JSON lines; none where there is no file."""
    if not file.is_file():
        return []
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines() if text]


def speed_table(found: list[dict[str, Any]]) -> str:
    """Format the contenders, the fastest first."""
    lines = ["| contender | tokens/s | MFU | peak GB |", "|---|--:|--:|--:|"]
    for row in sorted(found, key=lambda row: -row.get("tokens_per_second", 0)):
        if "tokens_per_second" in row:
            mfu = f"{row['mfu']:.1%}" if row["mfu"] else "-"
            peak = f"{row['peak_gb']:.1f}" if row["peak_gb"] else "-"
            lines.append(f"| {row['name']} | {row['tokens_per_second']:,} | {mfu} | {peak} |")
        else:
            lines.append(f"| {row['name']} | {row['error']} | - | - |")
    return "\n".join(lines)


def pretraining_table(found: list[dict[str, Any]]) -> str:
    """Format the held-out figures of the pre-training."""
    lines = ["| step | held-out perplexity | bits per byte |", "|--:|--:|--:|"]
    lines += [
        f"| {row['step']:,} | {row['validation_perplexity']:.2f} |"
        f" {row['validation_bits_per_byte']:.3f} |"
        for row in found
        if "validation_perplexity" in row
    ]
    return "\n".join(lines)


def glue_table(scores: Scores) -> tuple[str, dict[str, Any], bool]:
    """Format the tasks beside the paper's table 5; return the verdict and whether it passes."""
    tasks = [task for task in EIGHT if any(name == task for name, _, _ in scores)]
    lines = [f"| | {' | '.join(tasks)} | mean |", f"|---|{'--:|' * (len(tasks) + 1)}"]
    paired = pairs(scores)
    for title, variant in (("pre-trained", WITH), ("random weights", WITHOUT)):
        lines.append(line(title, [median(paired, task, variant) for task in tasks]))
    columns = [task for _, task, _ in PUBLISHED[5]["columns"]]
    papers = {
        row["name"].removeprefix("paper, "): dict(zip(columns, row["values"], strict=True))
        for row in PUBLISHED[5]["paper"]
    }
    for title, variant in (("paper, pre-trained", WITH), ("paper, random weights", WITHOUT)):
        lines.append(line(title, [papers[variant][task] or math.nan for task in tasks]))
    used = [str(rows_used(scores, task)) for task in tasks]
    lines.append(f"| training rows | {' | '.join(used)} | |")
    seeds_of = [str(len({s for name, _, s in paired if name == task})) for task in tasks]
    lines.append(f"| seeds with both | {' | '.join(seeds_of)} | |")
    by_task = {}
    for task in tasks:
        of_task = {key: row for key, row in paired.items() if key[0] == task}
        if of_task:
            by_task[task] = differences(of_task, [task])[2][:, 0]  # (seeds,)
    if not by_task:
        return "\n".join(lines), {"tasks": 0}, False
    means = np.array([values.mean() for values in by_task.values()])
    of = dict(zip(by_task, means, strict=True))
    lines.insert(4, line("mean difference", [of.get(task, math.nan) for task in tasks]))
    low, high = task_bootstrap(means)
    over_seeds = {task: t_interval(values) for task, values in by_task.items() if len(values) > 1}
    verdict = {
        "tasks": len(by_task), "mean_difference": round(float(means.mean()), 3),
        "higher": int((means > 0).sum()), "bootstrap_over_tasks": [round(low, 3), round(high, 3)],
        "t_interval_over_seeds": {t: [round(x, 2) for x in both] for t, both in over_seeds.items()},
    }  # fmt: skip
    return "\n".join(lines), verdict, low > 0


def pairs(scores: Scores) -> Scores:
    """Keep the jobs whose task ran with the same seed in both variants."""
    return {
        key: row
        for key, row in scores.items()
        if all((key[0], variant, key[2]) in scores for variant in (WITH, WITHOUT))
    }


def median(scores: Scores, task: str, variant: str) -> float:
    """Return the median over the seeds of a task's GLUE figure; NaN where none ran."""
    values = [
        glue_value(task, row["values"])
        for (t, v, _), row in scores.items()
        if (t, v) == (task, variant)
    ]
    return float(np.median(values)) if values else math.nan


def rows_used(scores: Scores, task: str) -> int:
    """Return the training rows of a task's jobs."""
    return next(row["train_rows"] for (name, _, _), row in scores.items() if name == task)


def line(title: str, values: list[float]) -> str:
    """Format one row with its mean; a dash for what is missing."""
    mean = float(np.mean(values))
    return (
        f"| {title} | {' | '.join('-' if math.isnan(v) else f'{v:.1f}' for v in [*values, mean])} |"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"benchmarks/gpu/compare.py: {error}", file=sys.stderr)
        sys.exit(2)
