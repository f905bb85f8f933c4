"""Examples of any task, and the files that hold one task's data: `task.json`, `train.jsonl`,
`dev.jsonl` and, where the publisher has one, `test.jsonl`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpt1.errors import UserError
from gpt1.tasks.metrics import baseline_of
from gpt1.tasks.registry import Task, definition, recorded_task

TASK_FILE = "task.json"
Label = int | float | str | None


@dataclass(frozen=True)
class Example:
    """One row of a task, whatever its kind.

    `texts` holds one text (classification, generation), two (entailment, similarity) or the
    document and, where there is one, the question (multiple choice, whose answers are `choices`).
    `label` is the index of the class or of the right answer, the score of a regression, the text to
    generate, or None where the publisher keeps it back. `group` names the part of the task whose
    score is also wanted by itself (MNLI's matched and mismatched, RACE's middle and high); empty
    where there is none.
    """

    id: str
    texts: tuple[str, ...]
    choices: tuple[str, ...] = ()
    label: Label = None
    group: str = ""

    @property
    def truth(self) -> float | str:
        """The label as metrics take it; 0 where there is none, for predicting only."""
        return self.label if isinstance(self.label, str) else float(self.label or 0)

    @property
    def encoded_texts(self) -> tuple[str, ...]:
        """All texts that become ids: its texts, then its answers or the text to generate."""
        target = (self.label,) if isinstance(self.label, str) else ()
        return (*self.texts, *self.choices, *target)


def write_examples(file: IO[bytes], examples: Iterable[Example]) -> int:
    """Write one JSON object a line; return their number."""
    count = 0
    for example in examples:
        file.write(
            json.dumps(asdict(example), ensure_ascii=False, sort_keys=True).encode("utf-8") + b"\n"
        )
        count += 1
    return count


def parse_json(text: str, where: str) -> dict[str, Any]:
    """A JSON object; UserError says `where` there is none."""
    try:
        found = json.loads(text)
        if "\\u" in text:  # half of a surrogate pair is no text that can be written
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); expected one object") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: found {shorten(text.strip())}; expected a JSON object")
    return found


def shorten(text: str, limit: int = 80) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= limit else f"{text[:limit]}..."


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a file made by `write_examples`; UserError names a line that is none."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path.name}, line {number}"
            row = parse_json(line, where)
            try:
                texts, choices = tuple(row["texts"]), tuple(row["choices"])
                yield Example(row["id"], texts, choices, row["label"], row["group"])
            except (KeyError, TypeError) as error:
                raise UserError(
                    f"{where}: not an example of a task ({error}); run the task_data stage again"
                ) from error


def read_plain_examples(path: Path) -> list[Example]:
    """The examples to predict for in a file that people write.

    `.jsonl`: an object a line with `texts` (a list, or one string) and, for multiple choice,
    `choices`; `id` if there is one. Any other file: a line an example, its texts separated by tabs.
    UserError names the file and the row.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read as UTF-8 text ({error}); choose another file with --file"
        ) from error
    rows = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise UserError(f"{path}: no examples found; write one per line")
    if path.suffix == ".jsonl":
        return [_parse_plain(line, number, f"{path}, row {number}") for number, line in rows]
    return [Example(str(number), tuple(line.rstrip("\r").split("\t"))) for number, line in rows]


def _parse_plain(line: str, number: int, where: str) -> Example:
    row = parse_json(line, where)
    texts, choices = row.get("texts"), row.get("choices", [])
    texts = [texts] if isinstance(texts, str) else texts
    for strings in (texts, choices):
        if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
            raise UserError(f"{where}: expected lists of strings for `texts` and `choices`")
    return Example(str(row.get("id", number)), tuple(texts or ()), tuple(choices))


@dataclass(frozen=True)
class TaskFiles:
    """A task (with the labels its data has) and the data about it.

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

    `train` None: a task that is only scored. UserError where one of them is damaged.
    """
    facts = parse_json(task_json.read_bytes().decode(errors="replace"), str(task_json))
    try:
        task = recorded_task(facts)
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{task_json}: not a task's facts ({error!r}); run the task_data stage again"
        ) from error
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
    dev = splits["dev"]
    baseline, baseline_kind = baseline_of(
        task, np.asarray([one.label for one in dev]), [one.texts[0] for one in dev]
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
