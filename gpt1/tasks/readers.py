"""Reading a task's files: those of its publisher (GLUE's and SciTail's TSV, SNLI's JSON Lines,
RACE's folders, Story Cloze's CSV, ...) or the Hugging Face hub's Parquet copy of them.

A reader of a layout yields rows, each with its place and name; the columns of the task's row in
gpt1/tasks/registry.py say which of their values are texts, answers and labels. Every fault of a
file is a UserError with the file, the row (counted from 1, as an editor shows lines) and the
column. There is no network here: `gpt1 data get` downloads.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpt1.corpus.document import ReadingConfig, SkippedFile, UnreadableFileError, first_line
from gpt1.corpus.isolation import isolate
from gpt1.corpus.readers.archives import OnRead, check_size
from gpt1.errors import UserError
from gpt1.tasks.io import Example, Label, parse_json, shorten
from gpt1.tasks.registry import Column, SplitFile, Task

CLOZE_SEED = 3535999445
CLOZE_DEV = 374
"""The released code's split of the labelled 2016 file: `train_test_split(test_size=374,
random_state=3535999445)`.
"""
SCHEMAS = 273
"""WSC273 is the first 273 schemas of the published collection; twelve more were added later."""
KEPT_BACK = -1
"""The hub's label where there is none: kept back, or the annotators did not agree."""
_ROWS = 256
"""Rows of a Parquet file that are decoded together."""
_SLACK = 256 << 20
"""Characters of text in a Parquet file, whatever its size: more than any published task has."""
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.parquet$")


@dataclass(frozen=True)
class TaskSplit:
    """The examples of one split, and how many rows of its files were left out, by reason."""

    examples: list[Example]
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class TaskFile:
    """One file (RACE: a folder) to read. `name` is the same on every machine.

    `labels` maps its values to indices; a label `kept_back` by the publisher may be missing.
    """

    task: Task
    name: str
    path: Path
    group: str
    columns: Column
    labels: Mapping[Any, int]
    kept_back: bool
    dropped: Counter[str]


@dataclass(frozen=True)
class TaskRow:
    """A row as its file has it; `where` names file and row for people, `name` the example."""

    where: str
    name: str
    values: Mapping[Any, Any]


def _fault(where: str, found: str, expected: str) -> UserError:
    """What is wrong in a file."""
    return UserError(f"{where}: {found}; expected {expected}")


def _shown(value: Any) -> str:
    """A value for a message."""
    return shorten(repr(value))


def source_files(task: Task, folder: Path) -> dict[str, list[TaskFile]]:
    """The files of each split under `folder`: the publisher's, in its own folder or one around it,
    or the hub's copy, in `owner/name`, `name` or `folder` itself.

    Only `test` may be missing.
    """
    hub, inside = task.hub, [folder / parent / task.folder for parent in ("", "glue", "GLUE")]
    root = next((place for place in inside if place.is_dir()), folder)
    if hub and not any(_paths(root, source) for files in task.files.values() for source in files):
        around = [folder / hub.repo, folder / hub.repo.partition("/")[2], folder]
        config = hub.parts("train")[0][0]
        copy = next((place for place in around if any((place / config).glob("*.parquet"))), None)
        if copy is not None:
            labels = {i: task.labels.index(label) for i, label in enumerate(hub.labels)}
            return _files(task, copy, hub.files, hub.columns, labels, hub.kept_back)
    return _files(task, root, task.files, task.columns, {}, task.layout == "tsv")


def _files(
    task: Task, root: Path, sources: Mapping[str, Sequence[SplitFile]], columns: Column | None,
    labels: Mapping[Any, int], kept_back: bool,
) -> dict[str, list[TaskFile]]:
    """Those of one copy under its `root`; labels are named as in the task unless `labels` says
    otherwise.
    """
    names = task.answers or task.labels or "ABCDEFGH"[: task.choices]
    own = {name: index for index, name in enumerate(names)}
    labels = labels or own | {alias: own[name] for alias, name in task.aliases.items()}
    found: dict[str, list[TaskFile]] = {}
    for split, files in sources.items():
        paths = [(source, _paths(root, source)) for source in files]
        if all(there for _, there in paths):
            found[split] = [
                TaskFile(
                    task, _name(source, path), path, source.group,
                    source.columns or columns or Column((), 0), labels,
                    kept_back and split == "test", Counter(),
                )
                for source, there in paths
                for path in there
            ]
        elif split != "test":
            lacking = next(source.path for source, there in paths if not there)
            place = f", or the folder around {task.folder}," if task.folder else ""
            get = f" (or download the hub's copy with `gpt1 data get {task.name}`)"
            raise UserError(
                f"{task.title}: {root / lacking.replace('*', '00000-of-00001')} is missing; set"
                f" `source` to the folder that holds it{place}{get if task.hub else ''}"
            )
    return found


def _name(source: SplitFile, path: Path) -> str:
    return f"hub/{Path(source.path).parent}/{path.name}" if "*" in source.path else source.path


def _paths(root: Path, source: SplitFile) -> list[Path]:
    """A file under the one or the other of its published names, or a pattern's shards; none where
    they are missing.
    """
    if "*" in source.path:
        return _shards(root, source.path)
    names = [name for name in (source.path, source.or_path) if name]
    return [root / name for name in names if (root / name).exists()][:1]


def _shards(root: Path, pattern: str) -> list[Path]:
    """All shards `cola/train-*.parquet` in their order; UserError where one of several is
    missing.
    """
    stem = Path(pattern).name.removesuffix("-*.parquet")
    counts = {
        path: int(shard[1])
        for path in sorted(root.glob(pattern))
        if (shard := _SHARD.search(path.name)) and path.name[: shard.start()] == stem
    }
    if counts and set(counts.values()) != {len(counts)}:
        raise UserError(
            f"{(root / pattern).parent}: {len(counts)} shards of {stem}, expected"
            f" {max(counts.values())} by their names; download the missing ones"
        )
    return list(counts)


def read_task(task: Task, folder: Path) -> dict[str, TaskSplit]:
    """All splits of a task.

    UserError: a missing file, a wrong column, an unknown label, an empty split.
    """
    splits = {}
    for split, files in source_files(task, folder).items():
        examples = [example for file in files for example in _read_file(file)]
        if not examples:
            found = f"no {split} examples of {task.title} in it"
            raise _fault(f"{files[0].path}", found, "at least one row")
        dropped = sum((file.dropped for file in files), Counter[str]())
        splits[split] = TaskSplit(examples, dict(dropped))
    return _cloze_dev(splits) if task.layout == "cloze" else splits


def _read_file(file: TaskFile) -> Iterator[Example]:
    read = _parquet if file.path.suffix == ".parquet" else _READERS[file.task.layout]
    for row in read(file):
        try:
            example = _example(file, row)
        except KeyError as error:
            wanted = f"a row with {', '.join(map(str, file.columns.used))}"
            raise _fault(row.where, f"no {error.args[0]!r} in it", wanted) from error
        if example is None:
            file.dropped[f"label {file.task.dropped_label}"] += 1
        else:
            yield example


def _example(file: TaskFile, row: TaskRow) -> Example | None:
    """A row as an example; None where its label says that it is no part of the task."""
    columns, values, where, dropped = file.columns, row.values, row.where, file.task.dropped_label
    label: Label = None
    if columns.label in values or not file.kept_back:
        value, is_copy = values[columns.label], file.path.suffix == ".parquet"
        if dropped and value == (KEPT_BACK if is_copy and not file.kept_back else dropped):
            return None
        if not (is_copy and file.kept_back and value == KEPT_BACK):
            label = _read_label(file, value, where)
    texts = tuple(_read_string(values[column], column, where) for column in columns.texts)
    answers = [values[column] for column in columns.choices]
    if len(answers) == 1:  # all of them in a list
        answers = answers[0] if isinstance(answers[0], list) else []
    if len(answers) != file.task.choices:
        raise _fault(where, f"{len(answers)} answers", f"{file.task.choices}")
    choices = tuple(_read_string(answer, "an answer", where) for answer in answers)
    return Example(
        str(values[columns.id]) if columns.id else row.name,
        (" ".join(texts),) if columns.joined else texts, choices, label, file.group,
    )


def _read_label(file: TaskFile, value: Any, where: str) -> Label:
    """The index of a class or answer, a regression's score in 0 to 5, or the text to generate."""
    if file.task.kind == "generation":
        return _read_string(value, file.columns.label, where)
    column, expected = file.columns.label, "a number from 0 to 5"
    if file.task.regression:
        try:
            score = float(value)
        except (TypeError, ValueError, OverflowError):
            score = math.nan
        if 0 <= score <= 5:
            return score
    else:
        if isinstance(value, str | int) and value in file.labels:
            return file.labels[value]
        expected = f"one of {', '.join(map(str, file.labels))}"
        if file.task.hub and file.task.hub.labels and 0 in file.labels:
            expected += f" ({', '.join(file.task.hub.labels)})"
    raise _fault(where, f"{_named(column)} is {_shown(value)}", expected)


def _read_string(value: Any, column: str | int, where: str) -> str:
    if not isinstance(value, str):
        raise _fault(where, f"{_named(column)} is {_shown(value)}", "a text")
    return value


def _named(column: str | int) -> str:
    """An index counts from 0, people from 1."""
    return f"column {column + 1}" if isinstance(column, int) else column


# Layouts


def _parquet(file: TaskFile) -> Iterator[TaskRow]:
    """The hub's: Parquet, read by a child process, as a damaged file can end pyarrow or fill the
    memory.
    """
    for found in isolate(_parquet_rows, [file], ReadingConfig.model_validate({})):
        if isinstance(found, SkippedFile):
            raise UserError(f"{file.path}: {found.found}; download it again")
        yield from found


def _parquet_rows(file: TaskFile, config: ReadingConfig, _: OnRead) -> Iterator[list[TaskRow]]:
    """The rows with the columns that the task needs, and RACE's `example_id`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [str(name) for name in file.columns.used]
    number = out = 0
    try:
        with pq.ParquetFile(file.path, buffer_size=1 << 20) as opened:
            names = opened.schema_arrow.names
            _check_columns(wanted, names, f"{file.path}")
            if file.task.kind == "choice" and "example_id" in names:
                wanted.append("example_id")
            for batch in opened.iter_batches(_ROWS, columns=wanted, use_threads=False):
                rows = []
                for row in batch.to_pylist():
                    number += 1
                    out += sum(map(_length, row.values()))
                    passage = str(row.get("example_id", file.path.stem))
                    passage = passage.removesuffix(".txt").removeprefix(file.group)
                    name = f"{file.group or file.path.stem.split('-')[0]}-{passage}-{number}"
                    rows.append(TaskRow(f"{file.path}, row {number}", name, row))
                if out > _SLACK:
                    check_size(out, file.path.stat().st_size, config)
                yield rows
    except MemoryError:  # Arrow's, too, which says nothing of the file
        raise
    except UnreadableFileError as error:
        raise UserError(f"{file.path}: {error}; download it again") from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"{file.path}: not a complete Parquet file ({first_line(error)}); download it again"
        ) from error


def _length(value: Any) -> int:
    """Of a text, or of all in a list of them; 0 for a number."""
    if isinstance(value, list):
        return sum(map(_length, value))
    return len(value) if isinstance(value, str | bytes) else 0


def _tsv(file: TaskFile) -> Iterator[TaskRow]:
    """Tab-separated lines. GLUE's files know no quoting: a quotation mark is text."""
    columns = file.columns.used
    lines = enumerate(_lines(_read_text(file.path)), start=1)
    header: list[str] = []
    if any(isinstance(column, str) for column in file.columns.texts):
        header = next(lines, (1, ""))[1].split("\t")
        if file.kept_back and file.columns.label not in header:
            columns = [column for column in columns if column != file.columns.label]
        _check_columns([c for c in columns if isinstance(c, str)], header, f"{file.path}, row 1")
    places = {c: header.index(c) if isinstance(c, str) else c for c in columns}
    wide = len(header) or max(places.values()) + 1
    for number, line in lines:
        row, where = line.split("\t"), f"{file.path}, row {number}"
        if len(row) < wide and file.task.short_rows:
            file.dropped["too few columns"] += 1
            continue
        if len(row) < wide or (header and len(row) > wide):
            raise _fault(where, f"{len(row)} columns", f"{wide} (tab separated)")
        values = {column: row[place] for column, place in places.items()}
        yield TaskRow(where, f"{file.path.stem}-{number}", values)


def _jsonl(file: TaskFile) -> Iterator[TaskRow]:
    """One JSON object a line."""
    for number, line in enumerate(_lines(_read_text(file.path)), start=1):
        if line.strip():
            where = f"{file.path}, row {number}"
            yield TaskRow(where, f"{file.path.stem}-{number}", parse_json(line, where))


def _race(file: TaskFile) -> Iterator[TaskRow]:
    """A folder of passages, one JSON object each, with several questions; in the order of their
    numbers. Its lists become the columns of the hub's copy, which has a question a row.
    """
    lists = {"question": "questions", "options": "options", "answer": "answers"}
    for path in sorted(file.path.glob("*.txt"), key=lambda path: (len(path.name), path.name)):
        passage = parse_json(_read_text(path), str(path))
        for key in ("article", *lists.values()):
            if not isinstance(passage.get(key), str if key == "article" else list):
                found = f"no {key!r} in it, or of another type"
                raise _fault(f"{path}", found, f"a RACE file: article, {', '.join(lists.values())}")
        columns = [passage[key] for key in lists.values()]
        if len({len(column) for column in columns}) > 1:
            found = "questions, options and answers differ in number"
            raise _fault(f"{path}", found, "one of each per question")
        for index, values in enumerate(zip(*columns, strict=True)):
            row = dict(zip(lists, values, strict=True), article=passage["article"])
            where = f"{path}, question {index + 1}"
            yield TaskRow(where, f"{file.group}-{path.stem}-{index}", row)


def _csv(file: TaskFile) -> Iterator[TaskRow]:
    """Story Cloze: comma-separated, quoted, with header."""
    rows = csv.DictReader(io.StringIO(_read_text(file.path), newline=""))
    try:
        header = list(rows.fieldnames or ())
        _check_columns([str(name) for name in file.columns.used], header, f"{file.path}, row 1")
        for row in rows:
            where = f"{file.path}, row {rows.line_num}"
            if None in row.values() or None in row:
                found = "too few or too many columns"
                raise _fault(where, found, f"{len(header)} (comma separated)")
            yield TaskRow(where, "", row)
    except csv.Error as error:
        raise UserError(
            f"{file.path}, row {rows.line_num + 1}: not comma-separated text ({error}); look for a"
            " quotation mark that is not closed"
        ) from error


def _cloze_dev(splits: dict[str, TaskSplit]) -> dict[str, TaskSplit]:
    """The released code's dev set: 374 stories of the one labeled file; a fifth
    of a shorter file.
    """
    from sklearn.model_selection import train_test_split

    labelled = splits["train"].examples
    if len(labelled) < 5:
        found = f"{len(labelled)} labeled stories"
        raise _fault("Story Cloze", found, "at least 5, to have a dev set")
    size = CLOZE_DEV if len(labelled) > 2 * CLOZE_DEV else len(labelled) // 5
    train, dev = train_test_split(labelled, test_size=size, random_state=CLOZE_SEED)
    return {**splits, "train": TaskSplit(train, {}), "dev": TaskSplit(dev, {})}


def _dpr(file: TaskFile) -> Iterator[TaskRow]:
    """Definite pronoun resolution (the paper's DPRD): blocks of sentence, pronoun, two candidates,
    answer. The texts are those before and after the pronoun.
    """
    blocks: list[tuple[int, list[str]]] = []
    fresh = True
    for number, line in enumerate(_lines(_read_text(file.path)), start=1):
        if line.strip() and fresh:
            blocks.append((number, []))
        if line.strip():
            blocks[-1][1].append(line.strip())
        fresh = not line.strip()
    for index, (number, lines) in enumerate(blocks):
        where = f"{file.path}, row {number}"
        if len(lines) != 4:
            found = f"a block of {len(lines)} lines"
            raise _fault(where, found, "sentence, pronoun, candidates, answer")
        sentence, pronoun, listed, answer = lines
        candidates = [candidate.strip() for candidate in listed.split(",")]
        folded = [candidate.lower() for candidate in candidates]
        if len(candidates) != 2 or answer.lower() not in folded:
            found = f"the answer is {_shown(answer)}"
            raise _fault(where, found, f"one of the two candidates {_shown(listed)}")
        at = _pronoun_at(sentence, pronoun, candidates)
        if at is None:
            found = f"the pronoun {_shown(pronoun)} does not occur"
            raise _fault(where, found, f"it in {_shown(sentence)}")
        label = folded.index(answer.lower())
        values = _schema(sentence[: at[0]], sentence[at[1] :], candidates, label)
        yield TaskRow(where, f"{file.path.stem}-{index}", values)


def _pronoun_at(
    sentence: str, pronoun: str, candidates: Sequence[str]
) -> tuple[int, int] | None:
    """The first occurrence after both candidates were named, else the last one: the files do not
    mark which one is meant.
    """
    found = [
        match.span() for match in re.finditer(rf"\b{re.escape(pronoun)}\b", sentence, re.IGNORECASE)
    ]
    if not found:
        return None
    named = max(sentence.lower().find(candidate.lower()) for candidate in candidates)
    return next((span for span in found if span[0] > named), found[-1])


def _schema(before: str, after: str, options: Any, label: Any) -> dict[Any, Any]:
    """A pronoun's row: the text before and after it, and what it may mean."""
    return {"before": before.strip(), "after": after.strip(), "options": options, "label": label}


def _lambada(file: TaskFile) -> Iterator[TaskRow]:
    """LAMBADA (Paperno et al. 2016). `.jsonl`: an object with `text` a line; else plain text, a
    passage a line. Texts: all but the last word, and that word.
    """
    for number, line in enumerate(_lines(_read_text(file.path)), start=1):
        if not line.strip():
            continue
        where, passage = f"{file.path}, row {number}", line
        if file.path.suffix == ".jsonl":
            passage = _read_string(parse_json(line, where).get("text"), "text", where)
        before, _, word = passage.strip().rpartition(" ")
        if not before.strip() or not word:
            raise _fault(where, f"found {_shown(passage.strip())}", "a passage of two words")
        values = {"before": before, "word": word, "label": 1}
        yield TaskRow(where, f"{file.path.stem}-{number}", values)


def _wsc(file: TaskFile) -> Iterator[TaskRow]:
    """WSC273 (Levesque et al. 2012): the published XML, or JSON Lines of `text`, `pronoun`,
    `pronoun_loc`, `options`, `label`. Beyond 273: left out.
    """
    rows = _wsc_xml(file) if file.path.suffix == ".xml" else _wsc_jsonl(file)
    for number, row in enumerate(rows):
        if number < SCHEMAS:
            yield row
        else:
            file.dropped[f"beyond the first {SCHEMAS}"] += 1


def _wsc_jsonl(file: TaskFile) -> Iterator[TaskRow]:
    for row in _jsonl(file):
        sentence, pronoun = (
            _read_string(row.values.get(name), name, row.where) for name in ("text", "pronoun")
        )
        loc = row.values.get("pronoun_loc")
        at = loc if isinstance(loc, int) and loc >= 0 else len(sentence)
        end = at + len(pronoun)
        if sentence[at:end] != pronoun:
            found = f"{_shown(sentence[at:end])} is at pronoun_loc {_shown(loc)}"
            raise _fault(row.where, found, f"the pronoun {_shown(pronoun)}")
        options, label = row.values.get("options"), row.values.get("label")
        values = _schema(sentence[:at], sentence[end:], options, label)
        yield TaskRow(row.where, row.name, values)


def _wsc_xml(file: TaskFile) -> Iterator[TaskRow]:
    text = _read_text(file.path)
    if "<!ENTITY" in text:
        raise _fault(f"{file.path}", "declares XML entities", "the published WSCollection.xml")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        found = f"not XML ({error})"
        raise _fault(f"{file.path}", found, "the published WSCollection.xml") from error
    for number, schema in enumerate(root.iter("schema"), start=1):
        before, pronoun, after, answer = (
            " ".join((schema.findtext(path) or "").split())
            for path in ("text/txt1", "text/pron", "text/txt2", "correctAnswer")
        )
        options = [" ".join((one.text or "").split()) for one in schema.findall("answers/answer")]
        letter = re.sub(r"\W", "", answer).upper()
        where = f"{file.path}, schema {number}"
        if not pronoun or letter not in ("A", "B"):
            found = f"text/pron {_shown(pronoun)} and correctAnswer {_shown(letter)}"
            raise _fault(where, found, "a pronoun, and A or B")
        values = _schema(before, after, options, "AB".index(letter))
        yield TaskRow(where, f"{file.path.stem}-{number}", values)


_READERS: Mapping[str, Callable[[TaskFile], Iterator[TaskRow]]] = {
    "tsv": _tsv, "jsonl": _jsonl, "race": _race, "cloze": _csv, "dpr": _dpr, "lambada": _lambada,
    "wsc": _wsc,
}


def _check_columns(wanted: Sequence[str], found: Sequence[str], where: str) -> None:
    missing = [column for column in wanted if column not in found]
    if missing:
        names = shorten(", ".join(found))
        raise UserError(f"{where}: no column {missing[0]!r}; columns found: {names}")
    if twice := [column for column in wanted if found.count(column) > 1]:
        raise UserError(f"{where}: several columns are called {twice[0]!r}; expected one")


def _read_text(path: Path) -> str:
    """The content; UserError where it is not a file of UTF-8 text."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"not UTF-8 text (byte {error.start})"
        raise _fault(f"{path}", found, "the published file") from error
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise _fault(f"{path}", found, "the published file") from error


def _lines(text: str) -> list[str]:
    """Lines; not `splitlines`, which also splits at form feeds and Unicode's separators inside a
    text.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
