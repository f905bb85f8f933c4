"""A folder in which the documentation's commands can be typed: a small workflow, run."""

import json
import re
import shutil
from pathlib import Path

import yaml

from gpt1.weights.openai import write_openai
from tests.conftest import ROOT, write
from tests.e2e.workflow import MINI, done
from tests.gpt1 import weight_samples as samples
from tests.pipeline.inline import write_rte
from tests.pipeline.inprocess import said

TASKS = ["demo_author", "rte", "race", "my.weather"]
PROFILES = ("demo", "laptop", "one-gpu", "paper")
OPTIONS = [["one day", "never", "in May", "at night"]] * 20
PASSAGE = {"article": "One day it rained.", "questions": ["When did it rain?"] * 20, "id": "1.txt"}
PASSAGE |= {"options": OPTIONS, "answers": ["A"] * 20}
WEATHER = [f"It rains on day {n}.\tyes\nHe reads on day {n}.\tno" for n in range(20)]
FILES = {
    "book.txt": "She said that it was a dark night.\n",
    "other.txt": "The old man was glad.\n",
    "my_books/one.txt": "It was the best of times, it was the worst of times. " * 100,
    "questions.jsonl": json.dumps({"texts": ["When did it rain?"], "choices": OPTIONS[0]}) + "\n",
}
FILES |= {
    f"data/RACE/{split}/{group}/1.txt": json.dumps(PASSAGE)
    for split in ("train", "dev", "test") for group in ("middle", "high")
}  # fmt: skip
for SPLIT in ("train", "dev"):
    FILES[f"data/weather/{SPLIT}.tsv"] = "\n".join(["sentence\tlabel", *WEATHER]) + "\n"


def make(folder: Path, golden: Path) -> None:
    """Write what the pages name; the store has the golden run and one with more tasks."""
    (stage, entry), (task, _) = code_of("stage.md"), code_of("task.md")
    own = {"my/longest_words.py": stage, "my/weather.py": task, "workflow.yaml": _workflow(entry)}
    own["rotary.py"] = code_of("variant.md")[0]
    write(folder, {**FILES, **own})
    write_rte(folder / "data", 40)
    shutil.copytree(golden, folder / "store", symlinks=True)
    write_openai(folder / "openai-files", samples.model(), samples.vocabulary())
    for words in ("import openai openai-files --out one", "export hf one --out transformers-model"):
        said(*words.split(), cwd=folder)
    done("run", "--profile", "demo", cwd=folder)


def code_of(page: str) -> list[str]:
    """The file that a how-to page adds, and its entry in workflow.yaml."""
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    return re.findall(r"^```(?:python|yaml)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def _workflow(entry: str) -> str:
    document = yaml.safe_load(MINI.read_text())
    stages = document["stages"]
    stages.update(yaml.safe_load(entry))
    stages["task_data"]["matrix"] = {"task": ["demo_choice", *TASKS]}
    stages["task_data"]["with"]["source"] = "data"
    stages["finetune"]["matrix"] = {"task": TASKS, "seed": [1, 2]}
    document["tasks"] = ["demo_choice", *TASKS]
    document["profiles"] = {name: {"description": "The same.", "stages": {}} for name in PROFILES}
    return yaml.safe_dump(document, sort_keys=False)
