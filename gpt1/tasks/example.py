"""One example of any task, and the JSON Lines files examples are kept in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from gpt1.errors import UserError

Label = int | float | None


@dataclass(frozen=True)
class Example:
    """One row of a task, whatever its kind.

    `texts` holds one text (classification), two (entailment, similarity) or the document and, where
    there is one, the question (multiple choice, whose answers are `choices`). `label` is the index
    of the class or of the right answer, the score of a regression, or None where the publisher
    keeps it back. `group` names the part of the task whose score is also wanted by itself (MNLI's
    matched and mismatched, RACE's middle and high); empty where there is none.
    """

    id: str
    texts: tuple[str, ...]
    choices: tuple[str, ...] = ()
    label: Label = None
    group: str = ""


def write_examples(file: IO[bytes], examples: Iterable[Example]) -> int:
    """Write one JSON object a line; return their number."""
    count = 0
    for example in examples:
        file.write(
            json.dumps(asdict(example), ensure_ascii=False, sort_keys=True).encode("utf-8") + b"\n"
        )
        count += 1
    return count


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a file made by `write_examples`; UserError names a line that is none."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            yield _parse(line, f"{path.name}, line {number}")


def _parse(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
        return Example(
            id=row["id"], texts=tuple(row["texts"]), choices=tuple(row["choices"]),
            label=row["label"], group=row["group"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}: not an example of a task ({error}); run the task_data stage again"
        ) from error
