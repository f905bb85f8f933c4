"""Readers of two later tests of language models: LAMBADA (Paperno et al. 2016) and WSC273 (Levesque
et al. 2012).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpt1.errors import UserError
from gpt1.tasks.io import Example

SCHEMAS = 273
"""WSC273 is the first 273 schemas of the published collection; twelve more were added later."""


def read_lambada(path: Path, text: str) -> Iterator[Example]:
    """`.jsonl`: an object with `text` a line; else plain text, a passage a line.

    Texts: all but the last word, and that word.
    """
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, row {number}"
        passage = _text_of(line, where) if path.suffix == ".jsonl" else line
        before, _, word = passage.strip().rpartition(" ")
        if not before.strip() or not word:
            raise UserError(
                f"{where}: expected a passage of at least two words, found {passage.strip()[:40]!r}"
            )
        yield Example(f"{path.stem}-{number}", (before, word), label=1)


def _text_of(line: str, where: str) -> str:
    found = _object(line, where).get("text")
    if not isinstance(found, str):
        raise UserError(
            f'{where}: no text under `text`; expected an object such as {{"text": "..."}}'
        )
    return found


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); expected one object per line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: not an object; expected a JSON object")
    return row


def read_wsc(path: Path, text: str, dropped: Counter[str]) -> Iterator[Example]:
    """The published XML, or JSON Lines of `text`, `pronoun`, `pronoun_loc`, `options`, `label`.

    Beyond 273: left out.
    """
    rows = _wsc_xml(path, text) if path.suffix == ".xml" else _wsc_jsonl(path, text)
    for number, example in enumerate(rows):
        if number < SCHEMAS:
            yield example
        else:
            dropped[f"beyond the first {SCHEMAS}"] += 1


def _wsc_jsonl(path: Path, text: str) -> Iterator[Example]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, row {number}"
        row = _object(line, where)
        try:
            sentence, pronoun, at, options, label = (
                row[key] for key in ("text", "pronoun", "pronoun_loc", "options", "label")
            )
            found = sentence[at : at + len(pronoun)]
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{where}: expected text, pronoun, pronoun_loc, options and label ({error!r})"
            ) from error
        if found != pronoun:
            raise UserError(
                f"{where}: {found!r} is at pronoun_loc {at}, expected the pronoun {pronoun!r}"
            )
        yield _schema(
            f"{path.stem}-{number}", sentence[:at], sentence[at + len(pronoun) :], options, label,
            where,
        )


def _wsc_xml(path: Path, text: str) -> Iterator[Example]:
    if "<!ENTITY" in text:
        raise UserError(
            f"{path}: declares XML entities, which the published file does not; download it again"
        )
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(
            f"{path}: not XML ({error}); expected the published WSCollection.xml"
        ) from error
    for number, schema in enumerate(root.iter("schema"), start=1):
        where = f"{path}, schema {number}"
        before, pronoun, after = (
            _inside(schema, f"text/{name}") for name in ("txt1", "pron", "txt2")
        )
        options = [_clean(answer.text) for answer in schema.findall("answers/answer")]
        letter = re.sub(r"\W", "", _inside(schema, "correctAnswer")).upper()
        if not pronoun or letter not in ("A", "B"):
            raise UserError(
                f"{where}: expected text/pron and correctAnswer A or B, found {pronoun!r} and"
                f" {letter!r}"
            )
        yield _schema(f"{path.stem}-{number}", before, after, options, "AB".index(letter), where)


def _inside(schema: ElementTree.Element, place: str) -> str:
    return _clean(schema.findtext(place))


def _clean(text: str | None) -> str:
    return " ".join((text or "").split())


def _schema(name: str, before: str, after: str, options: Any, label: Any, where: str) -> Example:
    good = (
        isinstance(options, list)
        and len(options) == 2
        and all(isinstance(option, str) and option for option in options)
    )
    if not good or label not in (0, 1):
        raise UserError(
            f"{where}: expected two options and label 0 or 1, found {options!r} and {label!r}"
        )
    return Example(name, (before.strip(), after.strip()), tuple(options), int(label))
