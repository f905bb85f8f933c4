"""A folder in which the documentation's commands can be typed as they stand: the small workflow under the pages' names, and run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from gpt1.weights.openai import write_openai
from tests.conftest import ROOT
from tests.e2e.workflow import MINI, gpt1
from tests.gpt1 import weight_samples as samples

TASKS = ["demo_author", "rte", "race", "my.weather"]
PROFILES = ("demo", "one-gpu", "paper")


def make(folder: Path) -> None:
    """Write what the pages name (books, task files, weights, workflow.yaml); two runs, so that `diff` has two."""
    _write_workflow(folder)
    _write_tasks(folder / "data")
    [task] = re.findall(r'```python\n(""".*?)```', (ROOT / "docs" / "how-to" / "task.md").read_text(), re.DOTALL)
    (folder / "my").mkdir()
    (folder / "my" / "weather.py").write_text(task)
    for name, text in {"book.txt": "She said that it was a dark night.\n", "other.txt": "The old man was glad.\n"}.items():
        (folder / name).write_text(text)
    (folder / "my_books").mkdir()
    (folder / "my_books" / "one.txt").write_text("It was the best of times, it was the worst of times. " * 100)
    question = {"texts": ["It rained. When did it rain?"], "choices": ["today", "never", "in May", "at night"]}
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n")
    write_openai(folder / "openai-files", samples.model(), samples.vocabulary())
    for command in (
        ("import", "openai", "openai-files", "--out", "one"), ("export", "hf", "one", "--out", "transformers-model"),
        ("run", "--profile", "demo"), ("run", "--profile", "demo", "export", "--force", "--only"),
    ):  # fmt: skip
        ended = gpt1(*command, cwd=folder)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr


def _write_workflow(folder: Path) -> None:
    document = yaml.safe_load(MINI.read_text())
    stages = document["stages"]
    stages["task_data"] |= {"matrix": {"task": ["demo_choice", *TASKS]}}
    stages["task_data"]["with"]["source"] = "data"
    stages["finetune"] |= {"matrix": {"task": TASKS, "seed": [1, 2]}}
    document["profiles"] = {name: {"description": "The same.", "stages": {}} for name in PROFILES}
    (folder / "workflow.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


def _write_tasks(data: Path) -> None:
    """RTE and RACE in their publishers' layouts, a few rows each."""
    (data / "RTE").mkdir(parents=True)
    rows = ["index\tsentence1\tsentence2\tlabel"]
    answers = (("dry", "not_entailment"), ("wet", "entailment"))
    rows += [f"{n}\tIt rained on day {n}.\tIt was {answers[n % 2][0]}.\t{answers[n % 2][1]}" for n in range(40)]
    for split in ("train", "dev"):
        (data / "RTE" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    (data / "weather").mkdir()
    sentences = [f"It rains on day {n}.\tyes\nHe reads on day {n}.\tno" for n in range(20)]
    for split in ("train", "dev"):
        (data / "weather" / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *sentences]) + "\n")
    passage = {
        "article": "One day it rained.", "questions": ["When did it rain?"] * 20, "answers": ["A"] * 20, "id": "1.txt",
        "options": [["one day", "never", "in May", "at night"]] * 20,
    }  # fmt: skip
    for split in ("train", "dev", "test"):
        for group in ("middle", "high"):
            place = data / "RACE" / split / group
            place.mkdir(parents=True)
            (place / "1.txt").write_text(json.dumps(passage))
