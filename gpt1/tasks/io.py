"""The files of one task's data: `task.json`, `train.jsonl`, `dev.jsonl` and, where the publisher
has one, `test.jsonl`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpt1.tasks.example import Example, read_examples
from gpt1.tasks.metrics import baseline_of
from gpt1.tasks.registry import Task, definition, recorded_task

TASK_FILE = "task.json"


@dataclass(frozen=True)
class TaskFiles:
    """A task (with the labels its data has) and what lies beside it.

    `facts` is the whole of task.json.
    """

    task: Task
    facts: dict[str, Any]
    train: list[Example]
    dev: list[Example]
    test: list[Example] = field(default_factory=list)

    @property
    def test_labelled(self) -> bool:
        """Whether the publisher gives the test set's labels out (RACE, SNLI, SciTail, Story
        Cloze).
        """
        return bool(self.test) and all(example.label is not None for example in self.test)

    @property
    def test_whole(self) -> bool:
        """Whether every test example of the source is there, so that predictions can be handed
        in.
        """
        return bool(self.test) and len(self.test) == self.facts["rows_in_source"].get("test", 0)


def load_task(
    task_json: Path, train: Path | None, dev: Path, test: Path | None = None
) -> TaskFiles:
    """Read what `task_facts` and `write_examples` wrote.

    `train` None: a task that is only scored.
    """
    facts = json.loads(task_json.read_text(encoding="utf-8"))
    task = recorded_task(facts)
    trained = list(read_examples(train)) if train else []
    tested = list(read_examples(test)) if test else []
    return TaskFiles(task, facts, trained, list(read_examples(dev)), tested)


def sample(examples: Sequence[Example], rows: int | None, seed: int, split: str) -> list[Example]:
    """At most `rows` examples, drawn by seed, in their order; all of them where `rows` is None."""
    return [examples[place] for place in sample_places(len(examples), rows, seed, split)]


def sample_places(count: int, rows: int | None, seed: int, split: str) -> list[int]:
    """Which of `count` examples `sample` takes, in their order."""
    if rows is None or rows >= count:
        return list(range(count))
    return sorted(random.Random(f"{split}/{seed}").sample(range(count), rows))


def task_facts(
    task: Task, splits: dict[str, list[Example]], whole: dict[str, int], about: dict[str, Any]
) -> dict[str, Any]:
    """What task.json says: the descriptor's facts, rows (used, in the source, official), whether
    it is a sample, the baseline.
    """
    baseline, baseline_kind = baseline_of(
        task, np.asarray([example.label for example in splits["dev"]])
    )
    used = {split: len(examples) for split, examples in splits.items()}
    # A public set with fewer rows than its publisher counts is a sample too, wherever it was drawn.
    official = {
        split: rows for split, rows in task.rows.items() if split in used and split != "test"
    }
    sampled = any(used[split] < whole[split] for split in used) or any(
        used[split] < rows for split, rows in official.items()
    )
    return {
        "task": task.name, "title": task.title, "kind": task.kind, "labels": list(task.labels),
        "metrics": list(task.metrics), "paper": dict(task.paper), "rows": used,
        "rows_in_source": whole, "official_rows": dict(task.rows), "sample": sampled,
        "baseline": baseline, "baseline_kind": baseline_kind, **definition(task), **about,
    }  # fmt: skip
