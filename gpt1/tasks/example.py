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
        return [_parse_plain(line, number, path) for number, line in rows]
    return [Example(str(number), tuple(line.rstrip("\r").split("\t"))) for number, line in rows]


def _parse_plain(line: str, number: int, path: Path) -> Example:
    try:
        row = json.loads(line)
        texts, choices = row["texts"], row.get("choices", [])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}, row {number}: expected a JSON object with `texts` ({error!r})"
        ) from error
    texts = [texts] if isinstance(texts, str) else texts
    for strings in (texts, choices):
        if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
            raise UserError(
                f"{path}, row {number}: expected lists of strings for `texts` and `choices`"
            )
    return Example(str(row.get("id", number)), tuple(texts), tuple(choices))


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
