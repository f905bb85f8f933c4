"""The command `gpt1 run` on a real Ray with small stages: every way a run can end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from tests.conftest import ROOT

TOY = ROOT / "tests" / "pipeline" / "toy" / "workflow.yaml"
pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "numbers").mkdir()
    for number in range(1, 7):
        (tmp_path / "numbers" / f"{number}.txt").write_text(str(number))
    return tmp_path


def command(folder: Path, *words: str) -> list[str]:
    base = [sys.executable, "-m", "pipeline.cli", "run", "--file", str(TOY), "--store", str(folder / "store")]
    return [*base, "--set", f"numbers.source={folder / 'numbers'}", *words]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *words), cwd=ROOT, capture_output=True, text=True, timeout=180)


def records(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in (folder / "store").glob("*/*/record.json")]
    return {record["cell"]: record for record in found}


def test_all_is_made_once_and_shown_in_mlflow(folder: Path) -> None:
    first = run(folder)
    assert first.returncode == 0, first.stderr
    assert "3 made, 0 taken as they were" in first.stdout
    before = records(folder)
    again = run(folder)
    assert (again.returncode, "nothing to run" in again.stdout, "Ray" in again.stdout + again.stderr) == (0, True, False)
    assert records(folder) == before

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = {found.info.run_name: found for found in client.search_runs(experiments)}
    parent = next(found for name, found in runs.items() if name.startswith("toy "))
    job, group = runs["total[factor=2]"], runs["total"]
    assert job.data.tags["mlflow.parentRunId"] == group.info.run_id
    assert group.data.tags["mlflow.parentRunId"] == runs["numbers"].data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert {found.info.status for found in runs.values()} == {"FINISHED"}
    assert job.data.metrics["total"] == 42
    assert job.data.params["factor"] == "2.0"
    assert job.info.run_id == before["total[factor=2]"]["mlflow_run_id"]
    [shown] = (folder / "store" / "mlflow-artifacts").glob(f"*/{job.info.run_id}/artifacts/outputs/total.txt")
    assert shown.read_text() == "42\n"
    assert [item.dataset.name for item in job.inputs.dataset_inputs] == ["numbers"]
    table = group.data.tags["mlflow.note.content"].replace("\u00a0", "").splitlines()
    assert table[0] == "| factor | total | run |"
    assert f"| 2 | 42 | [open](#/runs/{job.info.run_id}) |" in table
    assert len(table) == 4


def test_what_has_a_record_that_cannot_be_read_is_made_again(folder: Path) -> None:
    assert run(folder).returncode == 0
    before = records(folder)
    for kind in ("numbers", "numbers.parts"):
        damaged = next((folder / "store").glob(f"tests.pipeline.toy.{kind}/*/record.json"))
        damaged.write_bytes(damaged.read_bytes()[:100])
    again = run(folder)
    assert again.returncode == 0, again.stderr
    after = records(folder)
    assert after["numbers"]["parts"] == {"made": 1, "reused": 5}
    assert {cell: record["digest"] for cell, record in after.items()} == {cell: record["digest"] for cell, record in before.items()}


def test_a_failing_cell_is_tried_again(folder: Path) -> None:
    marker = folder / "marker"
    ended = run(folder, "--set", f"total.fail_unless={marker}", "--set", "total.factor=2", "--set", "total.retries=1")
    assert ended.returncode == 0, ended.stderr
    assert "told to fail); trying again" in ended.stdout + ended.stderr


def test_a_killed_worker_is_tried_again(folder: Path) -> None:
    words = ["--set", f"total.fail_unless={folder / 'marker'}", "--set", "total.die=true", "--set", "total.factor=2"]
    ended = run(folder, *words, "--set", "total.retries=1")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert records(folder)["total"]["summary"] == {"total": 42}


def test_a_failed_cell_ends_with_1_and_spares_the_others(folder: Path) -> None:
    ended = run(folder, "--set", f"total.fail_unless={folder / 'marker'}")
    assert ended.returncode == 1
    assert "ZeroDivisionError: told to fail" in ended.stderr
    assert len([cell for cell in records(folder) if cell.startswith("total")]) == 1
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    statuses = sorted(found.info.status for found in client.search_runs(experiments))
    assert statuses == ["FAILED", "FAILED", "FAILED", "FINISHED", "FINISHED"]  # a job, its stage and the workflow; a job, a stage


def test_bad_data_ends_with_2_and_one_line(folder: Path) -> None:
    (folder / "numbers" / "3.txt").write_text("three")
    ended = run(folder)
    assert ended.returncode == 2
    assert "numbers: 3.txt: expected a number, found 'three'" in ended.stderr.splitlines()
    assert "Traceback" not in ended.stderr + ended.stdout
    assert "left out, because what it needs has failed" in ended.stdout + ended.stderr


def test_a_timeout_ends_a_cell(folder: Path) -> None:
    ended = run(folder, "--set", "total.sleep=60", "--set", "total.timeout=3s", "--set", "total.factor=2")
    assert ended.returncode == 1
    assert "took longer than its timeout of 3 s" in ended.stderr


def test_what_can_never_be_placed_is_said_at_once(folder: Path) -> None:
    ended = run(folder, "--set", "total.resources.gpus=8")
    assert ended.returncode == 2
    assert "needs 8 GPUs, the cluster has 0" in ended.stderr


def test_two_runs_on_one_store_and_a_killed_driver(folder: Path) -> None:
    words = ["--set", "numbers.pause=3", "--set", "numbers.resources.workers=1"]
    first = subprocess.Popen(command(folder, *words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 90
    while len(records(folder)) < 2:
        assert time.monotonic() < deadline
        assert first.poll() is None
        time.sleep(0.1)
    second = run(folder, *words)
    assert second.returncode == 3
    assert f"(process {first.pid} on" in second.stderr

    first.kill()
    first.wait()
    made = records(folder)
    third = run(folder, "--set", "numbers.pause=0")
    assert third.returncode == 0, third.stderr
    after = records(folder)
    assert {cell: after[cell] for cell in made} == made
    # A worker may publish the part it was at after its driver is gone: that one is found done as well.
    parts = after["numbers"]["parts"]
    assert parts["reused"] >= len(made) >= 2
    assert parts["reused"] + parts["made"] == 6
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'store' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = {run_.info.run_name: run_.info.status for run_ in client.search_runs(experiments)}
    assert sorted(found.values()) == ["FINISHED"] * 5 + ["KILLED"]


def test_an_interrupt_leaves_nothing_running(folder: Path) -> None:
    process = subprocess.Popen(
        command(folder, "--set", "total.sleep=120", "--set", "total.factor=2"),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "factor 2" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "the same command goes on where it was" in rest
    assert not list((folder / "store").glob("*/*/lease.json"))
    assert not [p for p in psutil.process_iter(["ppid"]) if p.info["ppid"] == process.pid]


def test_a_forced_stage_with_the_same_result_spares_what_follows(folder: Path) -> None:
    assert run(folder).returncode == 0
    ended = run(folder, "numbers", "--force")
    assert ended.returncode == 0, ended.stderr
    assert "1 made" in ended.stdout
    assert "nothing to run" in run(folder).stdout
