"""Readers of the published layouts: GLUE's and SciTail's TSV, SNLI's JSON Lines, RACE's folders,
Story Cloze's CSV.

A folder without the publisher's files may hold the Hugging Face hub's copy instead
(gpt1/tasks/hub.py).

Every fault of a file is a UserError that names the file and the row (counted from 1, as an editor
shows lines).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.tasks.dpr import read_dpr
from gpt1.tasks.hub import hub_files, read_parquet
from gpt1.tasks.io import Example, Label
from gpt1.tasks.language_tests import read_lambada, read_wsc
from gpt1.tasks.registry import Column, Source, Task

CLOZE_SEED = 3535999445
CLOZE_DEV = 374
"""The released code's split of the labelled 2016 file: `train_test_split(test_size=374,
random_state=3535999445)`.
"""


@dataclass(frozen=True)
class Split:
    """The examples of one split, and how many rows of its files were left out, by reason."""

    examples: list[Example]
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class _File:
    """One file (RACE: folder) to read, and where to count the rows left out."""

    task: Task
    split: str
    path: Path
    group: str
    columns: Column
    dropped: Counter[str]

    def text(self) -> str:
        return read_text(self.path)


def source_files(task: Task, folder: Path) -> dict[str, list[tuple[Source, Path]]]:
    """The files of each split under `folder`: its own folder, one around it, or the hub's copy.

    Only `test` may be missing.
    """
    around = [folder / parent / task.folder for parent in ("", "glue", "GLUE")]
    root = next((place for place in around if place.is_dir()), folder)
    if not any(
        (root / source.path).exists() for sources in task.files.values() for source in sources
    ):
        copied = hub_files(task, folder)
        if copied is not None:
            return {
                split: [(Source(f"hub/{name}", group=group), path) for name, group, path in files]
                for split, files in copied.items()
            }
    found: dict[str, list[tuple[Source, Path]]] = {}
    for split, sources in task.files.items():
        paths = [(source, _there(root, source)) for source in sources]
        missing = [path for _, path in paths if not path.exists()]
        if not missing:
            found[split] = paths
        elif split != "test":
            inside = f", or the folder around {task.folder}," if task.folder else ""
            fetched = (
                f" (or download the hub's copy with `gpt1 data get {task.name}`)"
            ) if task.hub else ""
            raise UserError(
                f"{task.title}: {missing[0]} is missing; set `source` to the folder that holds"
                f" it{inside}{fetched}"
            )
    return found


def _there(root: Path, source: Source) -> Path:
    """Where a file lies, under the one or the other of its published names."""
    other = root / source.or_path
    return (
        other
        if source.or_path and other.exists() and not (root / source.path).exists()
        else root / source.path
    )


def read_task(task: Task, folder: Path) -> dict[str, Split]:
    """All splits of a task.

    UserError: a missing file, a wrong column, an unknown label, an empty split.
    """
    reader = _READERS[task.layout]
    splits = {}
    for split, files in source_files(task, folder).items():
        dropped: Counter[str] = Counter()
        examples: list[Example] = []
        for source, path in files:
            if path.suffix == ".parquet":
                examples += read_parquet(task, split, path, source.group, dropped)
                continue
            columns = source.columns or task.columns or Column((), 0)
            examples += reader(_File(task, split, path, source.group, columns, dropped))
        if not examples:
            raise UserError(
                f"{files[0][1]}: no {split} examples of {task.title} in it; expected at least one"
                " row"
            )
        splits[split] = Split(examples, dict(dropped))
    return _cloze_dev(splits) if task.layout == "cloze" else splits


def read_label(task: Task, text: str, where: str) -> Label:
    """The index of a class, or a regression's score in 0 to 5."""
    if not task.regression:
        text = task.aliases.get(text, text)
        if text not in task.labels:
            raise UserError(
                f"{where}: unknown label {text!r}; labels of {task.title}: {', '.join(task.labels)}"
            )
        return task.labels.index(text)
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 5:
        raise UserError(f"{where}: the score is {text!r}; expected a number from 0 to 5")
    return score


def _tsv(file: _File) -> Iterator[Example]:
    """Tab-separated lines. GLUE's files know no quoting: a quotation mark is text."""
    lines = enumerate(_lines(file.text()), start=1)
    header: list[str] = []
    if any(isinstance(column, str) for column in file.columns.texts):
        header = next(lines, (1, ""))[1].split("\t")
    texts, label = _places(file, header)
    wide = len(header) or max(*texts, label or 0) + 1
    for number, line in lines:
        row = line.split("\t")
        where = f"{file.path}, row {number}"
        if len(row) < wide and file.task.short_rows:
            file.dropped["too few columns"] += 1
            continue
        if len(row) < wide or (header and len(row) > wide):
            raise UserError(f"{where}: {len(row)} columns; expected {wide} (tab separated)")
        if file.task.dropped_label and label is not None and row[label] == file.task.dropped_label:
            file.dropped[f"label {file.task.dropped_label}"] += 1
            continue
        found = None if label is None else read_label(file.task, row[label], where)
        yield Example(
            f"{file.path.stem}-{number}", tuple(row[text] for text in texts), label=found,
            group=file.group,
        )


def _places(file: _File, header: list[str]) -> tuple[list[int], int | None]:
    """Where the texts and the label stand; None for the label that GLUE keeps back in its test
    files.
    """

    def at(column: str | int) -> int:
        if isinstance(column, int):
            return column
        if column in header:
            return header.index(column)
        raise UserError(
            f"{file.path}, row 1: no column {column!r}; columns found: {', '.join(header)}"
        )

    kept_back = file.split == "test" and header and file.columns.label not in header
    return [at(column) for column in file.columns.texts], (
        None if kept_back else at(file.columns.label)
    )


def _jsonl(file: _File) -> Iterator[Example]:
    """SNLI: one JSON object a line."""
    wanted = [str(column) for column in (*file.columns.texts, file.columns.label)]
    for number, line in enumerate(_lines(file.text()), start=1):
        where = f"{file.path}, row {number}"
        row = _json(line, where)
        missing = [key for key in wanted if not isinstance(row.get(key), str)]
        if missing:
            raise UserError(
                f"{where}: no {missing[0]!r} in it; expected a JSON object with {', '.join(wanted)}"
            )
        *texts, label = (row[key] for key in wanted)
        if label == file.task.dropped_label:
            file.dropped[f"label {label}"] += 1
            continue
        yield Example(
            f"{file.path.stem}-{number}", tuple(texts), label=read_label(file.task, label, where),
            group=file.group,
        )


_RACE_KEYS = ("article", "questions", "options", "answers")


def _race(file: _File) -> Iterator[Example]:
    """A folder of passages, one JSON object each, with several questions; in the order of their
    numbers.
    """
    for path in sorted(file.path.glob("*.txt"), key=lambda path: (len(path.name), path.name)):
        passage = _json(read_text(path), str(path))
        missing = [key for key in _RACE_KEYS if key not in passage]
        if missing:
            raise UserError(
                f"{path}: no {missing[0]!r} in it; a RACE file has {', '.join(_RACE_KEYS)}"
            )
        strange = [key for key in _RACE_KEYS[1:] if not isinstance(passage[key], list)]
        if strange or not isinstance(passage["article"], str):
            raise UserError(
                f"{path}: {(strange or ['article'])[0]!r} is no {'list' if strange else 'text'};"
                " expected a RACE file"
            )
        if not len(passage["questions"]) == len(passage["options"]) == len(passage["answers"]):
            raise UserError(
                f"{path}: questions, options and answers differ in number; expected one of each per"
                " question"
            )
        for index, question in enumerate(passage["questions"]):
            options, answer = passage["options"][index], passage["answers"][index]
            where = f"{path}, question {index + 1}"
            if not isinstance(options, list) or len(options) != file.task.choices:
                count = len(options) if isinstance(options, list) else "no"
                raise UserError(f"{where}: {count} answers; expected {file.task.choices}")
            if not all(isinstance(text, str) for text in (question, *options)):
                raise UserError(
                    f"{where}: the question or an answer is not a text; expected strings"
                )
            if answer not in ("A", "B", "C", "D"):
                raise UserError(
                    f"{where}: the right answer is {answer!r}; expected A, B, C or D"
                )
            name = f"{file.group}-{path.stem}-{index}"
            yield Example(
                name, (passage["article"], question), tuple(options), "ABCD".index(answer),
                file.group,
            )


_CLOZE_TEXTS = tuple(f"InputSentence{number}" for number in range(1, 5))
_CLOZE_ENDINGS = ("RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2")
_CLOZE_ANSWER = "AnswerRightEnding"


def _cloze(file: _File) -> Iterator[Example]:
    """Story Cloze: comma-separated, quoted, with header."""
    rows = csv.DictReader(io.StringIO(file.text(), newline=""))
    header = list(rows.fieldnames or ())
    for column in ("InputStoryid", *_CLOZE_TEXTS, *_CLOZE_ENDINGS, _CLOZE_ANSWER):
        if column not in header:
            raise UserError(
                f"{file.path}, row 1: no column {column!r}; columns found: {', '.join(header)}"
            )
    for row in rows:
        where = f"{file.path}, row {rows.line_num}"
        if None in row.values() or None in row:
            raise UserError(f"{where}: expected {len(header)} columns (comma separated)")
        if row[_CLOZE_ANSWER] not in ("1", "2"):
            raise UserError(
                f"{where}: {_CLOZE_ANSWER} is {row[_CLOZE_ANSWER]!r}; expected 1 or 2"
            )
        story = " ".join(row[column] for column in _CLOZE_TEXTS)
        yield Example(
            row["InputStoryid"], (story,), tuple(row[e] for e in _CLOZE_ENDINGS),
            int(row[_CLOZE_ANSWER]) - 1,
        )


def _cloze_dev(splits: dict[str, Split]) -> dict[str, Split]:
    """The released code's dev set: 374 stories of the one labeled file; a fifth
    of a shorter file.
    """
    from sklearn.model_selection import train_test_split

    labelled = splits["train"].examples
    if len(labelled) < 5:
        raise UserError(
            f"Story Cloze: {len(labelled)} labeled stories; expected at least 5, to have a dev set"
        )
    size = CLOZE_DEV if len(labelled) > 2 * CLOZE_DEV else len(labelled) // 5
    train, dev = train_test_split(labelled, test_size=size, random_state=CLOZE_SEED)
    return {**splits, "train": Split(train, {}), "dev": Split(dev, {})}


def read_text(path: Path) -> str:
    """A file's text; UserError where it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 text (byte {error.start}); expected the published file"
        ) from error


def _lines(text: str) -> list[str]:
    """Lines; not `splitlines`, which also splits at form feeds and Unicode's separators inside a
    text.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: not an object; expected a JSON object")
    return row


def _dpr(file: _File) -> Iterator[Example]:
    return read_dpr(file.path, file.text())


def _lambada(file: _File) -> Iterator[Example]:
    return read_lambada(file.path, file.text())


def _wsc(file: _File) -> Iterator[Example]:
    return read_wsc(file.path, file.text(), file.dropped)


_READERS: Mapping[str, Callable[[_File], Iterator[Example]]] = {
    "tsv": _tsv, "jsonl": _jsonl, "race": _race, "cloze": _cloze, "dpr": _dpr, "lambada": _lambada,
    "wsc": _wsc,
}
