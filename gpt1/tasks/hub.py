"""Reading a task from the Hugging Face hub's layout: Parquet files
`config/split-00000-of-00001.parquet` in a local folder.

Faults are UserErrors with file and row (counted from 1, as the hub's viewer shows row 0 as the
first). No network here: `gpt1 data get` downloads, and a folder that somebody filled by hand is
read just the same.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.tasks.io import Example, Label
from gpt1.tasks.registry import Hub, Task

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.parquet$")
LETTERS = "ABCDEFGH"


def hub_files(task: Task, folder: Path) -> dict[str, list[tuple[str, str, Path]]] | None:
    """For each split (name in the hub's layout, group, file) of the task; None where `folder` holds
    no such copy.

    Looked for under `folder/owner/name`, `folder/name` and `folder` itself. UserError where a shard
    or a split is missing.
    """
    if task.hub is None:
        return None
    config = next(iter(task.hub.parts["train"]))[0]
    around = [folder / task.hub.repo, folder / task.hub.repo.partition("/")[2], folder]
    root = next((place for place in around if list((place / config).glob("*.parquet"))), None)
    if root is None:
        return None
    found: dict[str, list[tuple[str, str, Path]]] = {}
    for split, parts in task.hub.parts.items():
        files = [
            (f"{name}/{path.name}", group, path)
            for name, part, group in parts
            for path in _shards(root / name, part)
        ]
        if files:
            found[split] = files
        elif split != "test":
            name, part, _ = parts[0]
            missing = root / name / f"{part}-00000-of-00001.parquet"
            raise UserError(
                f"{task.title}: {missing} is missing; download it with `gpt1 data get {task.name}`"
            )
    return found


def _shards(folder: Path, split: str) -> list[Path]:
    """All shards of a split in their order; none where it has none.

    UserError where one of several is missing.
    """
    found = sorted(path for path in folder.glob(f"{split}-*.parquet") if _SHARD.search(path.name))
    found = [path for path in found if path.name[: -len("-00000-of-00000.parquet")] == split]
    wanted = {int(_SHARD.search(path.name)[2]) for path in found}  # type: ignore[index]
    if found and wanted != {len(found)}:
        raise UserError(
            f"{folder}: {len(found)} shards of {split}, expected {max(wanted)} by their names;"
            " download the missing ones"
        )
    return found


def read_parquet(
    task: Task, split: str, path: Path, group: str, dropped: Counter[str]
) -> Iterator[Example]:
    """The examples of one file; rows with the hub's label -1 are dropped and counted, in test
    files they have no label.
    """
    hub = task.hub
    assert hub is not None
    for number, row in enumerate(_rows(hub, task, path), start=1):
        where = f"{path}, row {number}"
        texts = tuple(_text(row[column], column, where) for column in map(str, hub.columns.texts))
        passage = str(row.get("example_id", path.stem)).removesuffix(".txt").removeprefix(group)
        name = f"{group or path.stem.split('-')[0]}-{passage}-{number}"
        label = row[str(hub.columns.label)]
        if task.kind == "choice":
            yield Example(
                name, texts, _options(task, row["options"], where), _answer(task, label, where),
                group,
            )
        elif label == -1 and split == "test" and hub.kept_back:
            yield Example(name, texts, label=None, group=group)
        elif label == -1 and task.dropped_label:
            dropped[f"label {task.dropped_label}"] += 1
        else:
            yield Example(name, texts, label=_label(task, hub, label, where), group=group)


def _rows(hub: Hub, task: Task, path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [
        *map(str, hub.columns.texts), str(hub.columns.label),
        *(("options",) if task.kind == "choice" else ()),
    ]
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            missing = [name for name in wanted if name not in names]
            if missing:
                raise UserError(
                    f"{path}: no column {missing[0]!r}; columns found: {', '.join(names)}"
                )
            columns = [
                *wanted,
                *(["example_id"] if "example_id" in names and task.kind == "choice" else []),
            ]
            for batch in file.iter_batches(columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a complete Parquet file ({reason}); download it again"
        ) from error


def _text(value: Any, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {column} is {value!r}; expected a text")
    return value


def _label(task: Task, hub: Hub, value: Any, where: str) -> Label:
    if task.regression:
        if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 5:
            raise UserError(f"{where}: the score is {value!r}; expected a number from 0 to 5")
        return float(value)
    text = hub.labels[value] if isinstance(value, int) and 0 <= value < len(hub.labels) else value
    if text not in task.labels:
        known = (
            f"0 to {len(hub.labels) - 1} ({', '.join(hub.labels)})"
            if hub.labels
            else ", ".join(task.labels)
        )
        raise UserError(f"{where}: unknown label {value!r}; labels of {task.title}: {known}")
    return task.labels.index(text)


def _options(task: Task, found: Any, where: str) -> tuple[str, ...]:
    if not isinstance(found, list) or len(found) != task.choices:
        count = len(found) if isinstance(found, list) else 0
        raise UserError(f"{where}: {count} answers; expected {task.choices}")
    return tuple(_text(option, "an answer", where) for option in found)


def _answer(task: Task, letter: Any, where: str) -> int:
    letters = LETTERS[: task.choices]
    if not isinstance(letter, str) or len(letter) != 1 or letter not in letters:
        raise UserError(
            f"{where}: the right answer is {letter!r}; expected one of {', '.join(letters)}"
        )
    return letters.index(letter)
