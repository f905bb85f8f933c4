"""The user's stages and tasks on Ray's workers, here and as a job, from any working directory."""

import json
import sqlite3
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, write
from tests.e2e.documented import code_of
from tests.e2e.workflow import done, outputs
from tests.servers.mlflow import ui
from tests.servers.ray_cluster import Cluster

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
WEATHER = "sentence\tlabel\nIt rains.\tyes\nThe dog sleeps.\tno\n"
BOOK = "They were glad to be at home with all of their incontrovertible friends. " * 60
FILES = {
    "my/far.py": """
import counting
def double(number): return counting.TWO * number
def double_part(arguments, output): return {"value": double(arguments["value"])}
class Counter:
    def next(self): return counting.TWO - 1
""",
    "my/counting.py": "TWO = 2\n",
    "data/weather/train.tsv": WEATHER,
    "data/weather/dev.tsv": WEATHER,
    "books/one.txt": BOOK,
}
SHADOWS = {"polars/notes.txt": "", "numpy/__init__.py": "raise RuntimeError('not this one')"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The how-to pages' stage and task; the stage uses helpers in every kind of Ray's processes."""
    folder = tmp_path / "project"
    (stage, entry), (task, task_entry) = code_of("stage.md"), code_of("task.md")
    words = "        words: set[str] = set()\n"
    for old, new in (
        ("import Context,", "import Context, Part,"),
        ("\n\n\nclass", "\nfrom my.far import double_part\n\n\nclass"),
        (words, USES + words),
    ):
        assert old in stage
        stage = stage.replace(old, new, 1)
    write(folder, {**FILES, **SHADOWS, "my/longest_words.py": stage, "my/weather.py": task})
    stages = {"ingest": {"with": {"source": str(folder / "books"), "num_partitions": 1}}}
    stages |= {"clean": {"needs": ["ingest"]}, **yaml.safe_load(entry)}
    source = str(folder / "data")
    stages["task_data"] = {"with": {"source": source}, "matrix": {"task": "${tasks}"}}
    document = {"name": "mine", **yaml.safe_load(task_entry), "stages": stages}
    (folder / "workflow.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


def made(store: Path) -> dict[str, str]:
    found = outputs(store)
    task = "task_data/task_data[task=my.weather]/task.json"
    assert {"my.longest_words/longest_words/words.txt", task} <= found.keys()
    return found


def test_a_run_uses_them_in_every_process(project: Path, tmp_path: Path) -> None:
    """And the working directory shadows nothing."""
    elsewhere, store = tmp_path / "elsewhere", tmp_path / "store"
    write(elsewhere, SHADOWS)
    done("run", "--file", project / "workflow.yaml", "--store", store, cwd=elsewhere)
    made(store)
    with sqlite3.connect(store / "mlflow.db") as base:
        rows = base.execute("select status from runs").fetchall()
    assert rows == [("FINISHED",)] * 6  # of the workflow, its four cells and the matrix
    with ui(store, tmp_path / "ui.log", cwd=elsewhere):
        pass


def test_a_job_brings_them_along(project: Path, ray_head: Cluster, tmp_path: Path) -> None:
    here, there, file = tmp_path / "here", tmp_path / "there", project / "workflow.yaml"
    submit = ("submit", "--address", ray_head.address, "--store")
    done(*submit, here, cwd=project)
    (project / "my" / "counting.py").write_text("TWO = 2  # the same\n")
    done(*submit, there, "--file", file, cwd=ROOT)
    assert made(here) == made(there)
    planned = json.loads(done("plan", "--json", "--store", here, "--file", file))
    assert [cell["cell"] for cell in planned["cells"] if cell["notes"]] == ["longest_words"]
