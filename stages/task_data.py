"""task_data: read one task's examples from the publisher's files, or build them from the books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from gpt1.errors import UserError
from gpt1.tasks.config import TaskName
from gpt1.tasks.registry import Task, task_named
from stages.contract import Context, ExternalFile, Settings, Stage, runtime_field

if TYPE_CHECKING:
    from gpt1.tasks.demo import Region
    from gpt1.tasks.io import Example


class TaskDataSettings(Settings):
    task: TaskName
    """A task listed by `gpt1 tasks`, such as `mnli`, or your own module (`my.weather`)."""
    source: str | None = runtime_field(None, min_length=1)
    """Folder with the publisher's files; demo tasks need none."""
    train_rows: int | None = Field(None, ge=1, le=10_000_000)
    """Use at most N training examples; default: all, or the demo task's own limit."""
    dev_rows: int | None = Field(None, ge=1, le=10_000_000)
    """Use at most N dev examples."""
    test_rows: int | None = Field(None, ge=1, le=10_000_000)
    """Use at most N test examples; a sample cannot be submitted."""
    seed: int = Field(1, ge=0, le=2**31 - 1)
    """Seed for samples and for building demo tasks."""
    passage_words: int | None = Field(None, ge=5, le=1000)
    """Words per passage in a demo task."""
    max_books: int = Field(200, ge=2, le=100_000)
    """A demo task reads at most N training and N held-out books."""

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if not self.demo and self.source is None:
            raise ValueError(
                f"task {self.task!r} needs `source`, the folder with the publisher's files; set it,"
                " such as --set task_data.source=data"
            )
        return self

    @property
    def demo(self) -> bool:
        """Whether the examples are made from the books."""
        return task_named(self.task).layout == "demo"


class TaskData(Stage):
    """Examples in one form whatever they came from; limits on rows make a sample, which is
    called one.
    """

    settings_model = TaskDataSettings
    optional_inputs = ("split", "clean")

    @classmethod
    def wants_input(cls, settings: TaskDataSettings, kind: str, upstream: Any) -> bool:  # noqa: ARG003
        return settings.demo  # published tasks do not depend on the books

    @classmethod
    def external_files(cls, settings: TaskDataSettings) -> list[ExternalFile]:
        if settings.source is None or settings.demo:
            return []
        from gpt1.tasks.readers import source_files

        task, folder = task_named(settings.task), Path(settings.source).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"task_data: `source` {settings.source} of task {task.name} is not a folder; set it"
                " to the folder with the publisher's files"
            )
        return [
            ExternalFile(f"{split}/{file.name}{inside}", path)
            for split, files in source_files(task, folder).items()
            for file in files
            for inside, path in _files_in(file.path)
        ]

    @classmethod
    def check(cls, settings: TaskDataSettings, upstream: Mapping[str, Sequence[Any]]) -> None:
        missing = [kind for kind in ("clean", "split") if settings.demo and not upstream.get(kind)]
        if missing:
            raise UserError(
                f"task {settings.task!r} is built from the books: add a {missing[0]} stage to"
                " `needs:`"
            )

    def run(self, settings: TaskDataSettings, context: Context) -> None:
        import json

        from gpt1.tasks.io import TASK_FILE, task_facts, write_examples

        made = _demo(settings, context) if settings.demo else _published(settings)
        task, splits, whole, about = made
        for split, examples in splits.items():
            with context.open(f"{split}.jsonl") as file:
                write_examples(file, examples)
        facts = task_facts(task, splits, whole, about)
        with context.open(TASK_FILE) as file:
            file.write(
                json.dumps(facts, indent=2, ensure_ascii=False, sort_keys=True).encode() + b"\n"
            )
        context.summary(
            {key: facts[key] for key in ("task", "rows", "sample", "baseline", "baseline_kind")}
        )
        rows = ", ".join(f"{count} {split}" for split, count in facts["rows"].items())
        sampled = " (a sample)" if facts["sample"] else ""
        context.info(
            f"{task.name}: {rows} examples{sampled}; {facts['baseline_kind']}"
            f" {facts['baseline']:.1f}"
        )


Made = tuple[Task, dict[str, "list[Example]"], dict[str, int], dict[str, Any]]
"""The task, its examples by split, the rows that were there, and what task.json says besides."""


def _files_in(path: Path) -> list[tuple[str, Path]]:
    if path.is_dir():
        return [(f"/{file.name}", file) for file in sorted(path.glob("*.txt"))]
    return [("", path)]


def _published(settings: TaskDataSettings) -> Made:
    from gpt1.tasks.io import sample
    from gpt1.tasks.readers import read_task

    task = task_named(settings.task)
    assert settings.source is not None
    found = read_task(task, Path(settings.source).expanduser())
    limits = {"train": settings.train_rows, "dev": settings.dev_rows, "test": settings.test_rows}
    splits = {
        name: sample(split.examples, limits[name], settings.seed, name)
        for name, split in found.items()
    }
    dropped = {name: dict(split.dropped) for name, split in found.items() if split.dropped}
    rows = {name: len(split.examples) for name, split in found.items()}
    return task, splits, rows, {"dropped_rows": dropped, "scored_on": "dev"}


def _demo(settings: TaskDataSettings, context: Context) -> Made:
    from dataclasses import replace

    from gpt1.tasks.demo import DEV_FROM, SIZES, DemoSettings, make_demo_task

    usual, task = SIZES[settings.task], task_named(settings.task)
    words = settings.passage_words or usual.words
    train, dev = settings.train_rows or usual.train, settings.dev_rows or usual.dev
    wanted = DemoSettings(train, dev, words, settings.seed)
    made = make_demo_task(task.name, _regions(settings, context), wanted)
    splits = {"train": made.train, "dev": made.dev}
    rows = {name: len(examples) for name, examples in splits.items()}
    about = {"scored_on": DEV_FROM, "words": words}
    return replace(task, labels=made.labels or task.labels), splits, rows, about


def _regions(settings: TaskDataSettings, context: Context) -> list[Region]:
    """The books' texts, cut as the split says; of a large corpus a number of books drawn by
    seed, so that memory is bounded.
    """
    import random

    from gpt1.corpus.document import read_books
    from gpt1.corpus.split import read_split
    from gpt1.tasks.demo import Region

    rows = read_split(context.fetch(context.input("split").file("split.parquet")))
    chosen: dict[str, Any] = {}
    for kind in ("train", "held_out"):
        books = [row for row in rows if row.set == kind]
        if len(books) > settings.max_books:
            books = random.Random(f"books/{settings.seed}").sample(books, settings.max_books)
        chosen |= {row.book: row for row in books}
    parts = {row.part for row in chosen.values()}
    found: list[Region] = []
    for file in context.input("clean").under("books/"):
        if Path(file.name).stem not in parts:
            continue
        for book in read_books(context.fetch(file)):
            if (row := chosen.get(book.id)) is None:
                continue
            if row.set == "held_out":
                found.append(Region("held_out", book.id, book.author, book.text))
                continue
            found.append(Region("known", book.id, book.author, book.text[: row.tail_start]))
            if row.tail_start is not None:
                found.append(Region("tail", book.id, book.author, book.text[row.tail_start :]))
    return found


STAGE = TaskData()
