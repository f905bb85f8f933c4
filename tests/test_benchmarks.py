"""All of benchmarks/gpu on a CPU with a tiny model: prepare, send in pieces, speed, learn, compare;
and the paired comparison of benchmarks/glue.py.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

GPU = Path("benchmarks") / "gpu"
FEW = ["gpt1", "plain sdpa, compiled"]


def run(*words: str | Path, cwd: Path, path: str = "", statuses: tuple[int, ...] = (0,)) -> Any:
    """The JSON of a script's last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    environment |= {"PYTHONPATH": path} if path else {}
    how = {"cwd": cwd, "env": environment, "timeout": 580}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, **how)
    assert done.returncode in statuses, done.stdout[-3000:] + done.stderr[-3000:]
    last = done.stdout.strip().splitlines()[-1]
    return json.loads(last) if last.startswith("{") else {}


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.chaos
def test_a_rehearsal_on_a_cpu(shared: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(shared / "data/tasks/glue.tar.xz", tmp_path / "data", filter="data")
    gpu, pieces = tmp_path / "gpu", tmp_path / "pieces"
    work, results = gpu / "work", gpu / "results"
    prepared = run(
        ROOT / GPU / "prepare.py", "--profile", "rehearsal", "--store",
        tmp_path / "store", "--tasks", tmp_path / "data", "--out", pieces, "--mib", "0.7",
        "--no-wheels", cwd=tmp_path,
    )  # fmt: skip
    assert len(prepared["pieces"]) > 1
    assert max(prepared["pieces"].values()) <= prepared["limit"]

    # What follows sees the pieces alone, one after the other, and the code in the first.
    there = shutil.move(pieces, gpu / "arrived")
    code, packed = work / "code", work / "packed"
    path = os.pathsep.join(map(str, (work / "site", code)))
    run(there / "piece-1" / "unpack.py", there / "piece-1", work, cwd=gpu)
    shards = [name for name in read(packed / "shards.json") if name.startswith("train/")]
    assert 0 < len(read(packed / "run.json")["runtime"]["train"]) < len(shards)
    speed = run(
        code / GPU / "speed.py", "--packed", packed, "--out", results, "--device", "cpu",
        "--precision", "bf16", "--batch", "4", "--steps", "2", "--limit", "500",
        *(f"--only={name}" for name in FEW), cwd=gpu, path=path, statuses=(0, 1),
    )  # fmt: skip
    measured = {row["name"]: row.get("error") for row in lines(results / "speed.jsonl")}
    assert set(measured.values()) == {None}, measured
    assert set(FEW) <= set(measured)
    assert not [failure for failure in speed["failures"] if "loss" in failure]

    for number in range(2, len(prepared["pieces"]) + 1):
        piece = there / f"piece-{number}"
        run(code / GPU / "unpack.py", piece, work, cwd=gpu, path=path)
    assert read(packed / "run.json")["runtime"]["train"] == sorted(shards)
    learned = run(
        code / GPU / "learn.py", "--packed", packed, "--tokens-per-second", "2000",
        "--device", "cpu", "--pretrain", "8", "--starting", "120", "--limit", "420",
        "--processes", "2", "--out", results, cwd=gpu, path=path,
    )  # fmt: skip
    assert (learned["pretraining_status"], learned["not_done"]) == (0, [])
    rows = lines(results / "finetune.jsonl")
    assert len(rows) == learned["finetuning_jobs"] == 8 * 2 * 2
    assert any("validation_perplexity" in row for row in lines(results / "metrics.jsonl"))
    compared = run(ROOT / GPU / "compare.py", results, cwd=ROOT, statuses=(0, 1))
    assert compared["tasks"] == 8
    assert set(compared["t_interval_over_seeds"]) == {row["task"] for row in rows}


def test_the_committed_trials_are_what_the_readme_says() -> None:
    trials = [ROOT / "benchmarks/results/gpu" / f"2026-11-28-{card}" for card in ("h100", "h200")]
    points = [run(ROOT / GPU / "compare.py", trial, cwd=ROOT) for trial in trials]
    rows, key = lines(trials[1] / "metrics.jsonl"), "validation_perplexity"
    speeds = {row["name"]: row for row in lines(trials[1] / "speed.jsonl")}
    ours, plain = (speeds[name]["tokens_per_second"] for name in FEW)
    figures = [f"{point['mean_difference']:+.1f}" for point in points]
    figures += [f"{[row[key] for row in rows if key in row][-1]:.1f}", f"{ours:,}"]
    for page in ("README.md", "README.zh.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [one for one in (*figures, f"{ours / plain:.2f}") if one not in text] == [], page


@pytest.mark.parametrize(("ours", "plain", "passes"), [
    ({}, {}, True), ({}, {"compile": False}, False),
    ({"name": "gpt1, an experiment"}, {}, False), ({"tokens_per_second": 90.0}, {}, False),
    ({"mfu": 0.49}, {}, False), ({"loss_after": 6.3}, {}, False),
])  # fmt: skip
def test_the_verdict(ours: Any, plain: Any, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on what pre-training runs, against compiled loops."""
    monkeypatch.syspath_prepend(ROOT / GPU)
    measured = {"compile": True, "loss_before": 6.0, "loss_after": 5.9, "device": "a GPU"}
    figures = [("ours", 120.0, 0.51), ("plain sdpa", 100.0, 0.43)]
    rows = [{**measured, "kind": k, "tokens_per_second": t, "mfu": m} for k, t, m in figures]
    rows = [{**rows[0], "name": "gpt1", **ours}, {**rows[1], "name": "plain sdpa", **plain}]
    assert runpy.run_path(str(ROOT / GPU / "speed.py"))["judge"](rows)[1] == passes


# The paired comparison of benchmarks/glue.py on figures worked out by hand

GLUE = runpy.run_path(str(ROOT / "benchmarks" / "glue.py"))


def job(**values: float) -> dict[str, Any]:
    metric = next(iter(values))
    return {"values": values, "metric": metric, "n": 10, "train_rows": 5, "official_rows": {}}


def test_pairs_are_of_one_seed_and_incomplete_tasks_are_left_out() -> None:
    scores = {("cola", "full", 1): job(matthews=10.0), ("rte", "full", 3): job(accuracy=99.0)}
    for seed, lead in ((1, 4.0), (2, 2.0)):
        for variant, more in (("full", lead), ("no_pretraining", 0.0)):
            scores["rte", variant, seed] = job(accuracy=50 + more)
            scores["mrpc", variant, seed] = job(f1=80.0, accuracy=70 + more)
    tasks, seeds, found = GLUE["differences"](scores)
    assert (tasks, seeds) == (["mrpc", "rte"], [1, 2])
    assert found.tolist() == [[2.0, 4.0], [1.0, 2.0]]
    assert GLUE["report"](scores) == 1, "a verdict needs all eight tasks"


def test_students_interval_over_three_seeds() -> None:
    half = 4.302653 / np.sqrt(3)
    assert GLUE["t_interval"](np.array([1.0, 2, 3])) == pytest.approx([2 - half, 2 + half], 1e-5)
