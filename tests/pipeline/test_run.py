"""The command `gpt1 run` on a real Ray with small stages: every way a run can end."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.store.atomic import create_file
from pipeline.store.base import Store
from pipeline.store.lease import Holder, Leases
from tests.conftest import ROOT
from tests.e2e.workflow import begin
from tests.e2e.workflow import records as records_of
from tests.pipeline.inline import TOY, write_numbers
from tests.pipeline.inprocess import Ended, gpt1
from tests.pipeline.test_tracking import runs
from tests.servers.process import wait_until
from tests.servers.ray_cluster import Cluster

pytestmark = pytest.mark.slow

ALONE = ["total.matrix={}", "total.factor=2"]
"""One job, which is no part of a matrix."""


def words(folder: Path, *assignments: str) -> list[str]:
    given = [f"--set={one}" for one in ("numbers.source=FOLDER/numbers", *assignments)]
    given = ["run", "--file", str(TOY), "--store", "FOLDER/store", *given]
    return [word.replace("FOLDER", str(folder)) for word in given]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ray_head: Cluster) -> tuple[Path, Ended]:
    """A folder in which all has been run, and how that ended."""
    folder = tmp_path_factory.mktemp("made")
    write_numbers(folder / "numbers", 6)
    return folder, gpt1(*words(folder), cluster=ray_head)


def records(folder: Path) -> dict[str, Any]:
    return {record["cell"]: record for record in records_of(folder / "store").values()}


def mlflow_runs(folder: Path) -> dict[str, Any]:
    return runs(f"sqlite:///{folder / 'store' / 'mlflow.db'}", "mlflow.runName")


def statuses(folder: Path) -> list[str]:
    return sorted(found.info.status for found in mlflow_runs(folder).values())


def test_all_is_made_once_and_shown_in_mlflow(made: tuple[Path, Ended]) -> None:
    folder, ended = made
    assert (ended.status, "3 ran, 0 cached" in ended.out) == (0, True), ended
    before = records(folder)
    again = gpt1(*words(folder)).out
    assert ("nothing to run" in again, "Ray" in again) == (True, False)
    assert records(folder) == before
    shown = mlflow_runs(folder)
    parent = next(found for name, found in shown.items() if name.startswith("toy: "))
    job, group = shown["total[factor=2]"], shown["total"]
    for found, above in ((job, group), (group, parent), (shown["numbers"], parent)):
        assert found.data.tags["mlflow.parentRunId"] == above.info.run_id
    assert statuses(folder) == ["FINISHED"] * 5
    assert (job.data.metrics["total"], job.data.params["factor"]) == (42, "2.0")
    made_by = before["total[factor=2]"]["fingerprint"]
    assert job.data.tags["gpt1.fingerprint"] == made_by
    table = group.data.tags["mlflow.note.content"].replace("\u00a0", "")
    assert f"\n| 2 | [open](#/runs/{job.info.run_id}) | 42 |" in table


def test_a_forced_stage_spares_what_follows(made: Any, tmp_path: Path, ray_head: Cluster) -> None:
    """It had the same result, as one whose records cannot be read."""
    copy = Path(shutil.copytree(made[0], tmp_path / "copy"))
    for kind in ("numbers", "numbers.parts"):
        damaged = next((copy / "store").glob(f"tests.pipeline.toy.{kind}/*/record.json"))
        damaged.write_bytes(damaged.read_bytes()[:100])
    assert gpt1(*words(copy), cluster=ray_head).status == 0
    assert records(copy)["numbers"]["parts"] == {"made": 1, "reused": 5}
    ended = gpt1(*words(copy), "numbers", "--force", cluster=ray_head)
    assert (ended.status, "1 ran" in ended.out) == (0, True), ended
    assert "nothing to run" in gpt1(*words(copy)).out


ONE = ["numbers", "total"]
FAILS, RETRY = ["total.fail_unless=FOLDER/marker"], [*ALONE, "total.retries=1"]
SLEEPS = ["total.sleep=60", "total.timeout=1s", *ALONE]
F, X = "FINISHED", "FAILED"  # in MLflow: the workflow, its stages, and jobs of a matrix
ENDINGS: dict[str, tuple[list[str], int, list[str] | int, list[str], str]] = {
    "tried again": ([*FAILS, *RETRY], 0, ONE, [F, F, F], "failing on purpose); retrying"),
    "killed, tried again": ([*FAILS, *RETRY, "total.die=true"], 0, ONE, [F, F, F], "retrying"),
    "one fails": (FAILS, 1, 2, [X, X, X, F, F], "ZeroDivisionError: failing on purpose\n"),
    "too long": (SLEEPS, 1, ["numbers"], [X, X, F], "exceeded its timeout of 1.0s\n"),
    "bad data": (["numbers.source=FOLDER/bad"], 2, [], [X, X], "3.txt: expected a number, found "),
    "no GPU": (["total.resources.gpus=8"], 2, [], [X], "needs 8 GPUs, but the cluster has 0"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_a_run_ends(ending: str, tmp_path: Path, ray_head: Cluster) -> None:
    """Its status, what is made in spite of a failure, the runs in MLflow, and what is printed."""
    assignments, status, done, runs, said = ENDINGS[ending]
    write_numbers(tmp_path / "numbers")
    (write_numbers(tmp_path / "bad") / "3.txt").write_text("three")
    ended = gpt1(*words(tmp_path, *assignments), cluster=ray_head)
    assert (ended.status, statuses(tmp_path)) == (status, runs), ended
    kept = sorted(records(tmp_path))
    cells = [cell for cell in kept if not cell.endswith(".txt")]
    assert done in (cells, len(cells))
    assert bool(kept) == (ending != "no GPU"), "finished parts stay"
    printed = ended.err + ended.out
    assert (said in printed, "Traceback" in printed) == (True, False), ended


def test_two_runs_on_one_store_and_a_killed_driver(tmp_path: Path, ray_head: Cluster) -> None:
    write_numbers(tmp_path / "numbers", 6)
    slowly = words(tmp_path, "numbers.pause=2", "numbers.resources.workers=1")
    first = begin(tmp_path / "log", *slowly, "--address", ray_head.gcs)
    wait_until(lambda: len(records(tmp_path)) >= 2, "two parts", first, tmp_path / "log")
    second = gpt1(*slowly, cluster=ray_head)
    first.kill()
    first.wait()
    assert (second.status, f"(process {first.pid} on" in second.err) == (3, True), second
    made = records(tmp_path)
    assert gpt1(*words(tmp_path), cluster=ray_head).status == 0
    after = records(tmp_path)
    assert {cell: after[cell] for cell in made} == made
    # A worker may publish the part it was at after its driver is gone: that one is found as well.
    parts = after["numbers"]["parts"]
    assert (parts["reused"] >= len(made) >= 2, parts["reused"] + parts["made"]) == (True, 6)
    assert statuses(tmp_path) == ["FINISHED"] * 5 + ["KILLED"]


def test_a_job_that_another_run_took_over_is_ended(
    tmp_path: Path, ray_head: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our driver slept too long; its lease has a higher number now."""
    monkeypatch.setattr("pipeline.store.lease.HEARTBEAT", 0.1)
    monkeypatch.setattr("pipeline.store.lease.EXPIRY", 0.3)
    write_numbers(tmp_path / "numbers")

    def take_over() -> None:
        wait_until(lambda: list(tmp_path.glob("store/*total/*/*/begun.json")), "the job")
        [lease] = tmp_path.glob("store/leases/*total/*/*")
        other = Holder("later", "elsewhere", "", 1, "token").to_bytes()
        create_file(lease.with_name("000002.json"), other)

    thread = threading.Thread(target=take_over)
    thread.start()
    ended = gpt1(*words(tmp_path, *ALONE, "total.sleep=60"), cluster=ray_head)
    thread.join()
    assert (ended.status, "run later on elsewhere has taken" in ended.err) == (1, True), ended


@pytest.mark.parametrize("service", ["gcs_server", "raylet"])
def test_a_cluster_that_dies_is_one_line(service: str, tmp_path: Path) -> None:
    """Ray itself would end the driver after a minute, by lines of its own."""
    write_numbers(tmp_path / "numbers")
    log = tmp_path / "log"
    driver = begin(log, *words(tmp_path, *ALONE, "total.sleep=600"))
    wait_until(lambda: "factor 2" in log.read_text(), "the job", driver, log)
    children = psutil.Process(driver.pid).children(recursive=True)
    next(one for one in children if one.name() == service).kill()
    assert driver.wait(55) == 1, log.read_text()
    *_, job, last = log.read_text().splitlines()
    assert re.match("gpt1: lost the Ray cluster: .* run the same command to resume$", last), last
    assert "[2/2] total  lost the Ray cluster" in job
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert Leases(Store.at(tmp_path / "store"), "").held() == {}
    assert statuses(tmp_path) == ["FAILED", "FINISHED", "KILLED"]


def test_ray_that_is_slow_to_leave_changes_no_status(tmp_path: Path, ray_head: Cluster) -> None:
    write_numbers(tmp_path / "numbers")
    code = "from pipeline.execution import cluster\nfrom pipeline.cli.main import main\n"
    code += "cluster.DISCONNECT = 0.0\nmain()"
    command = [sys.executable, "-c", code, *words(tmp_path), "--address", ray_head.gcs]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert (ended.returncode, "3 ran" in ended.stdout) == (0, True), ended


def test_a_run_whose_reader_is_gone_goes_on(tmp_path: Path) -> None:
    """And its jobs can end what they start."""
    write_numbers(tmp_path / "numbers")
    given = words(tmp_path, "total.starts=true")
    command = shlex.join([sys.executable, "-m", "pipeline.cli", *given])
    ended = subprocess.run(
        ["bash", "-c", f"{command} | head -2; exit ${{PIPESTATUS[0]}}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout.count("\n"), ended.stderr) == (0, 2, "")
    assert len(records(tmp_path)) == 3 + 3
