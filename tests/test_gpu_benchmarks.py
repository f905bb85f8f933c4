"""All of benchmarks/gpu on a CPU with a tiny model: prepare, send in pieces, speed, learn, compare.

GPT1_GPU_PYTHON names the interpreter of the part that runs on the GPU machine (default: this one),
so that the rehearsal can be had with that machine's Python and torch: then wheels are packed, and all contenders run.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from gpt1.model.config import ModelConfig
from gpt1.model.gpt import GPT
from gpt1.train.pretrain_config import to_json
from gpt1.weights.store import save_model
from tests.conftest import ROOT
from tests.gpt1.tiny_pretraining import CONFIG, write_data

THERE = os.environ.get("GPT1_GPU_PYTHON", sys.executable)
GPU = Path("benchmarks") / "gpu"


def run(*words: str | Path, cwd: Path, path: str = "", statuses: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """The JSON of a script's last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    environment = {**environment, "PYTHONPATH": path} if path else environment
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=580, check=False)
    print(done.stdout[-3000:], done.stderr[-3000:])
    assert done.returncode in statuses, done.stderr[-3000:]
    last = done.stdout.strip().splitlines()[-1]
    return json.loads(last) if last.startswith("{") else {}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_a_rehearsal_on_a_cpu(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "data" / "tasks" / "glue.tar.xz") as archive:
        archive.extractall(tmp_path / "data", filter="data")
    pieces, work, results = tmp_path / "pieces", tmp_path / "gpu" / "work", tmp_path / "gpu" / "results"
    other = "GPT1_GPU_PYTHON" in os.environ
    wheels, mib = ("--wheels", 5.5) if other else ("--no-wheels", 0.7)
    few = ["gpt1", "plain sdpa, compiled"]
    prepared = run(
        sys.executable, ROOT / GPU / "prepare.py", "--profile", "rehearsal", "--store", tmp_path / "store",
        "--tasks", tmp_path / "data", "--out", pieces, "--mib", str(mib), wheels, cwd=tmp_path,
    )  # fmt: skip
    assert len(prepared["pieces"]) > 1
    assert max(prepared["pieces"].values()) <= prepared["limit"]

    # What follows sees the pieces alone, one after the other, and the code that travels in the first.
    there = shutil.move(pieces, tmp_path / "gpu" / "arrived")
    code, path = work / "code", os.pathsep.join(map(str, (work / "site", work / "code")))
    packed = work / "packed"
    run(THERE, there / "piece-1" / "unpack.py", there / "piece-1", work, cwd=work.parent)
    shards = json.loads((packed / "shards.json").read_text())
    first = json.loads((packed / "run.json").read_text())["place"]["train"]
    assert 0 < len(first) < sum(name.startswith("train/") for name in shards)

    speed = run(
        THERE, code / GPU / "speed.py", "--packed", packed, "--out", results, "--device", "cpu", "--precision", "bf16",
        "--batch", "4", "--steps", "2", "--limit", "500", *([] if other else [f"--only={name}" for name in few]),
        cwd=work.parent, path=path, statuses=(0, 1),
    )  # fmt: skip
    measured = {row["name"]: row.get("error") for row in lines(results / "speed.jsonl")}
    assert set(measured.values()) == {None}, measured
    assert set(few) <= set(measured)
    assert not [failure for failure in speed["failures"] if "loss" in failure]
    assert json.loads((results / "profile.json").read_text())["milliseconds"]

    for number in range(2, len(prepared["pieces"]) + 1):
        run(THERE, code / GPU / "unpack.py", there / f"piece-{number}", work, cwd=work.parent, path=path)
    assert json.loads((packed / "run.json").read_text())["place"]["train"] == sorted(s for s in shards if s.startswith("train/"))
    learned = run(
        THERE, code / GPU / "learn.py", "--packed", packed, "--tokens-per-second", "2000", "--pretrain", "8",
        "--starting", "120", "--limit", "420", "--processes", "2", "--device", "cpu", "--out", results,
        cwd=work.parent, path=path,
    )  # fmt: skip
    assert learned["pretraining_status"] == 0
    assert learned["not_done"] == []
    rows = lines(results / "finetune.jsonl")
    assert len(rows) == learned["finetuning_jobs"] == 8 * 2 * 2
    assert {row["variant"] for row in rows} == {"full", "no_pretraining"}
    assert any("validation_perplexity" in row for row in lines(results / "metrics.jsonl"))

    compared = run(sys.executable, ROOT / GPU / "compare.py", results, cwd=ROOT, statuses=(0, 1))
    assert compared["tasks"] == 8
    assert set(compared["t_interval_over_seeds"]) == {row["task"] for row in rows}


def test_the_committed_trials_are_what_the_readme_says() -> None:
    results = ROOT / "benchmarks" / "results" / "gpu"
    h100, h200 = results / "2026-11-28-h100", results / "2026-11-28-h200"
    points = [run(sys.executable, ROOT / GPU / "compare.py", trial, cwd=ROOT)["mean_difference"] for trial in (h100, h200)]
    perplexity = [row["validation_perplexity"] for row in lines(h200 / "metrics.jsonl") if "validation_perplexity" in row][-1]
    speed = {row["name"]: row.get("tokens_per_second", 0) for row in lines(h200 / "speed.jsonl")}
    figures = [f"{perplexity:.1f}", *(f"{difference:+.1f}" for difference in points), f"{speed['gpt1']:,}"]
    figures.append(f"{speed['gpt1'] / speed['plain sdpa, compiled']:.2f}")
    for page in ("README.md", "README.zh.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [figure for figure in figures if figure not in text] == []


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts as modules."""
    sys.path.insert(0, str(ROOT / GPU))
    yield {name: importlib.import_module(name) for name in ("learn", "speed", "compare")}
    sys.path.remove(str(ROOT / GPU))


def test_a_model_that_a_kill_has_cut_off_is_passed_over(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    newest = scripts["learn"].newest_model
    assert newest(tmp_path) is None
    model = GPT(ModelConfig(vocabulary=9, context=4, width=8, layers=1, heads=1))
    older, newer = (save_model(tmp_path / "snapshots" / f"step-{n}.safetensors", model) for n in (1, 2))
    assert newest(tmp_path) == newer
    newer.write_bytes(newer.read_bytes()[:-5])
    assert newest(tmp_path) == older
    assert newest(save_model(tmp_path, model).parent) == tmp_path / "model.safetensors"


def row(name: str, kind: str, tokens_per_second: float, mfu: float, compiled: bool = True) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "tokens_per_second": tokens_per_second, "mfu": mfu, "compile": compiled,
        "loss_before": 6.0, "loss_after": 5.9, "device": "a GPU",
    }  # fmt: skip


def test_the_verdict_is_on_what_pre_training_runs_against_compiled_loops(scripts: dict[str, ModuleType]) -> None:
    judge = scripts["speed"].judge
    ours, plain = row("gpt1", "ours", 120.0, 0.51), row("plain sdpa, compiled", "plain sdpa", 100.0, 0.43)
    assert judge([ours, plain])[1]
    for rows in (
        [ours],
        [ours, row("plain sdpa", "plain sdpa", 50.0, 0.2, compiled=False)],
        [row("gpt1", "ours", 90.0, 0.38), row("gpt1, an experiment", "ours", 130.0, 0.6), plain],
        [{**ours, "mfu": 0.49}, plain],
        [{**ours, "loss_after": 6.3}, plain],
        [{"name": "gpt1", "kind": "ours", "error": "status 1"}, plain],
    ):
        assert not judge(rows)[1], rows


def test_jobs_without_their_pair_do_not_count(scripts: dict[str, ModuleType]) -> None:
    scores = {
        ("rte", variant, seed): {"values": {"accuracy": value}, "train_rows": 5}
        for variant, seed, value in (("full", 1, 60.0), ("no_pretraining", 1, 50.0), ("full", 2, 99.0))
    }
    table, verdict, passed = scripts["compare"].glue_table(scores)
    assert (verdict["tasks"], verdict["mean_difference"], passed) == (1, 10.0, True)
    assert "99.0" not in table


def test_pre_training_that_time_ends_leaves_its_curve_and_its_last_snapshot(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    place, results = write_data(tmp_path), tmp_path / "results"
    (tmp_path / "run.json").write_text(to_json(CONFIG, place))
    (tmp_path / "finetune.json").write_text('{"jobs": []}')
    learned = run(
        sys.executable, ROOT / GPU / "learn.py", "--packed", tmp_path, "--out", results, "--device", "cpu",
        "--tokens-per-second", "106667", "--pretrain", "18", "--starting", "1", "--validations", "300", "--limit", "60",
        cwd=tmp_path, statuses=(1,),
    )  # fmt: skip
    assert learned["pretraining_status"] == 124
    assert learned["steps"] > 20_000
    assert [one["step"] for one in lines(results / "metrics.jsonl") if "validation_perplexity" in one][:2] == [90, 180]
    snapshot = scripts["learn"].newest_model(tmp_path / "output")
    assert snapshot.parent.name == "snapshots"
    running = (" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))
    assert not [words for words in running if str(tmp_path) in words]
