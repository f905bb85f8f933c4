"""Test predictions in the forms in which they are handed in.

GLUE: a zip of one TSV a task, with the server's file names, a header `index<TAB>prediction` and,
for the inference tasks, labels as words. Story Cloze: the published file's own columns,
`InputStoryid,AnswerRightEnding`. RACE has no server, its answers being public: the letters by
passage file, as the published files hold them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpt1.tasks.io import Example
from gpt1.tasks.registry import Task

GLUE_FILES: Mapping[str, Mapping[str, str]] = {
    "cola": {"": "CoLA.tsv"}, "sst2": {"": "SST-2.tsv"}, "mrpc": {"": "MRPC.tsv"},
    "stsb": {"": "STS-B.tsv"}, "qqp": {"": "QQP.tsv"},
    "mnli": {"matched": "MNLI-m.tsv", "mismatched": "MNLI-mm.tsv"}, "qnli": {"": "QNLI.tsv"},
    "rte": {"": "RTE.tsv"}, "wnli": {"": "WNLI.tsv"},
}  # fmt: skip
"""The server's file name for each task and group.

It also takes AX.tsv, a diagnostic set that enters no score; none is made.
"""
STORY_CLOZE_FILE = "StoryCloze.csv"
RACE_FILE = "RACE.json"


def forms(
    task: Task, examples: Sequence[Example], predictions: Sequence[Any]
) -> dict[str, bytes]:
    """File name -> content for a whole test set, in its published order; none for tasks whose
    predictions nobody takes.
    """
    pairs = list(zip(examples, predictions, strict=True))
    found: dict[str, bytes] = {}
    for group, name in GLUE_FILES.get(task.name, {}).items():
        ours = [value for example, value in pairs if example.group == group]
        rows = (f"{index}\t{_glue_label(task, value)}" for index, value in enumerate(ours))
        found[name] = _table("index\tprediction", rows)
    if task.name == "storycloze":
        rows = (f"{example.id},{int(value) + 1}" for example, value in pairs)
        found[STORY_CLOZE_FILE] = _table("InputStoryid,AnswerRightEnding", rows)
    if task.name == "race":
        found[RACE_FILE] = _race(examples, predictions)
    return found


def _table(header: str, rows: Iterable[str]) -> bytes:
    return ("\n".join([header, *rows]) + "\n").encode()


def _glue_label(task: Task, value: float) -> str:
    if task.regression:
        return f"{min(5.0, max(0.0, value)):.3f}"
    return task.labels[int(value)]


def _race(examples: Sequence[Example], predictions: Sequence[float]) -> bytes:
    """{"high/12.txt": ["A", …]}: a passage's answers in the order of its questions."""
    answers: dict[str, list[str]] = {}
    for example, value in zip(examples, predictions, strict=True):
        passage = example.id.removeprefix(f"{example.group}-").rpartition("-")[0]
        answers.setdefault(f"{example.group}/{passage}.txt", []).append("ABCD"[int(value)])
    return (json.dumps(answers, indent=0) + "\n").encode()


def glue_zip(files: Mapping[str, bytes]) -> bytes:
    """The zip for the server: the same bytes for the same files (no times, no compression whose
    output a library may change).
    """
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[name])
    return written.getvalue()
