"""Files of examples to predict for."""

from __future__ import annotations

import json
from pathlib import Path

from gpt1.errors import UserError
from gpt1.tasks.example import Example


def read_plain_examples(path: Path) -> list[Example]:
    """`.jsonl`: an object a line with `texts` (a list, or one string) and, for multiple choice,
    `choices`; `id` if there is one.

    Any other file: a line an example, its texts separated by tabs. UserError names the file and the
    row.
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
        return [_from_json(line, number, path) for number, line in rows]
    return [Example(str(number), tuple(line.rstrip("\r").split("\t"))) for number, line in rows]


def _from_json(line: str, number: int, path: Path) -> Example:
    try:
        row = json.loads(line)
        texts, choices = row["texts"], row.get("choices", [])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}, row {number}: expected a JSON object with `texts` ({error!r})"
        ) from error
    texts = [texts] if isinstance(texts, str) else texts
    if not all(
        isinstance(part, list) and all(isinstance(text, str) for text in part)
        for part in (texts, choices)
    ):
        raise UserError(
            f"{path}, row {number}: expected lists of strings for `texts` and `choices`"
        )
    return Example(str(row.get("id", number)), tuple(texts), tuple(choices))
