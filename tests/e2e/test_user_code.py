"""The user's stages and tasks on Ray's workers, here and as a job: with what they import, from any working directory."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.e2e.workflow import gpt1, outputs
from tests.servers.process import free_port, running, wait_until
from tests.servers.ray_cluster import ray_cluster
from tests.test_docs import blocks

pytestmark = pytest.mark.slow

USES = """
        import ray
        from concurrent.futures import ProcessPoolExecutor
        from my.far import Counter, double

        with ProcessPoolExecutor(1) as pool:
            assert list(pool.map(double, [1, 2])) == [2, 4]
        assert ray.get(ray.remote(double).remote(2)) == 4
        assert ray.get(ray.remote(Counter).remote().next.remote()) == 1
        parts = context.map_parts(double_part, [Part("a", {"value": 3}, {"value": 3})])
        assert parts[0].summary == {"value": 6}
"""
FILES = {
    "my/far.py": """
import counting


def double(number):
    return counting.TWO * number


def double_part(arguments, output):
    return {"value": double(arguments["value"])}


class Counter:
    def next(self):
        return counting.TWO - 1
""",
    "my/counting.py": "TWO = 2\n",
    "data/weather/train.tsv": "sentence\tlabel\nIt rains.\tyes\nThe dog sleeps.\tno\n",
    "data/weather/dev.tsv": "sentence\tlabel\nIt rains.\tyes\nThe dog sleeps.\tno\n",
    "books/one.txt": "They were glad to be at home with all of their incontrovertible friends at the end of the day. " * 60,
}
SHADOWS = {"polars/notes.txt": "", "numpy/__init__.py": "raise RuntimeError('not this one')"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The stage and the task of the how-to pages, the stage with helpers that it uses in every kind of process Ray has."""
    folder = tmp_path / "project"
    [stage], [entry] = blocks("stage.md", "python"), blocks("stage.md", "yaml")
    [task], [task_entry] = blocks("task.md", "python"), blocks("task.md", "yaml")
    stage = stage.replace("import Context,", "import Context, Part,").replace(
        "\n\n\nclass", "\nfrom my.far import double_part\n\n\nclass", 1
    )
    stage = stage.replace("        words: set[str] = set()\n", f"{USES}        words: set[str] = set()\n")
    write(folder, {**FILES, **SHADOWS, "my/longest_words.py": stage, "my/weather.py": task})
    stages = {"ingest": {"with": {"source": str(folder / "books"), "parts": 1}}, "clean": {"needs": ["ingest"]}}
    stages |= {**yaml.safe_load(entry), **yaml.safe_load(task_entry)}
    stages["task_data"]["with"]["source"] = str(folder / "data")
    (folder / "workflow.yaml").write_text(yaml.safe_dump({"name": "mine", "stages": stages}, sort_keys=False))
    return folder


def made(store: Path) -> dict[str, str]:
    found = outputs(store)
    assert {"my.longest_words/longest_words/words.txt", "task_data/task_data[task=my.weather]/task.json"} <= found.keys()
    return found


def test_a_run_uses_them_in_every_process_and_the_working_directory_shadows_nothing(project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, SHADOWS)
    ran = gpt1("run", "--file", project / "workflow.yaml", "--store", tmp_path / "store", cwd=elsewhere)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    made(tmp_path / "store")
    with sqlite3.connect(tmp_path / "store" / "mlflow.db") as base:
        [(runs, ended)] = base.execute("select count(*), sum(status = 'FINISHED') from runs")
    assert (runs, ended) == (6, 6)  # of the workflow, its four cells and the matrix
    log, port = tmp_path / "ui.log", str(free_port())
    command = [sys.executable, "-m", "pipeline.cli", "ui", "--store", tmp_path / "store", "--port", port]
    with running(command, log, cwd=elsewhere) as ui:
        wait_until(lambda: "MLflow shows" in log.read_text(), "gpt1 ui", ui, log)


def test_a_job_brings_them_from_any_folder(project: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with ray_cluster(tmp_path / "ray.log") as cluster:
        own = gpt1("submit", "--address", cluster.address, "--store", here, cwd=project)
        assert own.returncode == 0, own.stdout + own.stderr
        (project / "my" / "counting.py").write_text("TWO = 2  # the same\n")
        other = gpt1("submit", "--address", cluster.address, "--store", there, "--file", project / "workflow.yaml", cwd=ROOT)
        assert other.returncode == 0, other.stdout + other.stderr
    assert made(here) == made(there)
    planned = json.loads(gpt1("plan", "--json", "--store", here, "--file", project / "workflow.yaml").stdout)
    changed = {cell["cell"]: bool(cell["notes"]) for cell in planned["cells"]}
    assert changed == {"ingest": False, "clean": False, "longest_words": True, "task_data[task=my.weather]": False}
