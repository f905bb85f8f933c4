"""The how-to pages, followed to the letter: a stage and a task are one new file and one entry each."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

ADDED = """
from pathlib import Path
from pipeline.plan import Selection
from tests.pipeline.inline import plan_of, run_inline
plan = plan_of(Path("workflow.yaml"), Path("store"), selection=Selection(("{stage}",)))
print(run_inline(plan))
artifact = plan.store.artifact("{kind}", plan.entries["{cell}"].fingerprint)
print(artifact.summary)
print(artifact.path("{file}").read_text())
"""


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project's code, and a small workflow in the place of its own."""
    for name in ("gpt1", "stages", "pipeline"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "pipeline").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "pipeline" / "inline.py", tmp_path / "tests" / "pipeline")
    stages = {
        "ingest": {"with": {"source": "books", "parts": 1}},
        "clean": {"needs": ["ingest"]},
        "split": {"needs": ["clean"]},
    }
    (tmp_path / "workflow.yaml").write_text(yaml.safe_dump({"name": "mine", "stages": stages}, sort_keys=False))
    (tmp_path / "books").mkdir()
    line = "It was the end of the day and they were glad to be at home with all of their incontrovertible friends. "
    (tmp_path / "books" / "one.txt").write_text(line * 60)
    return tmp_path


def python(folder: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_stage_is_one_file_and_one_entry(clone: Path) -> None:
    [code], [entry] = blocks("stage.md", "python"), blocks("stage.md", "yaml")
    (clone / "my").mkdir()
    (clone / "my" / "longest_words.py").write_text(code)
    with (clone / "workflow.yaml").open("a") as workflow:
        workflow.write(entry)
    kind = yaml.safe_load(entry)["longest_words"]["uses"]
    said = python(clone, "-c", ADDED.format(stage="longest_words", cell="longest_words", kind=kind, file="words.txt"))
    assert "'longest_words'" in said
    assert "{'longest': 16}" in said
    assert "incontrovertible" in said


def test_a_task_is_one_file_and_one_entry(clone: Path) -> None:
    [code], [entry] = blocks("task.md", "python"), blocks("task.md", "yaml")
    (clone / "my").mkdir()
    (clone / "my" / "weather.py").write_text(code)
    document = yaml.safe_load((clone / "workflow.yaml").read_text())
    document["stages"]["task_data"] = {"needs": ["clean", "split"], **yaml.safe_load(entry)["task_data"]}
    (clone / "workflow.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    folder = clone / "data" / "weather"
    folder.mkdir(parents=True)
    rows = "sentence\tlabel\nIt rains.\tyes\nThe dog sleeps.\tno\n"
    for name in ("train", "dev"):
        (folder / f"{name}.tsv").write_text(rows)
    cell = "task_data[task=my.weather]"
    said = python(clone, "-c", ADDED.format(stage="task_data", cell=cell, kind="task_data", file="task.json"))
    assert cell in said
    assert "Weather or not" in said


def test_the_hub_has_the_commands_of_the_page_on_publishing() -> None:
    lines = [line for block in blocks("publish.md", "sh") for line in block.splitlines() if line.startswith("hf ")]
    assert any("upload" in line for line in lines)
    for line in lines:
        words = [word for word in line.split()[1:] if word.islower() and "-" not in word]
        done = subprocess.run(
            [Path(sys.executable).with_name("hf"), *words, "--help"], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "Usage: hf " + " ".join(words) in done.stdout
