"""task_data: read one task's examples from the publisher's files, or build them from the books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from gpt1.errors import UserError
from gpt1.tasks.config import TaskName
from gpt1.tasks.example import Example
from gpt1.tasks.registry import Task, task_named
from stages.contract import Context, ExternalFile, Settings, Stage, runtime_field


class TaskDataSettings(Settings):
    task: TaskName = Field(
        description=(
            "A task listed by `gpt1 tasks`, such as `mnli`, or your own module (`my.weather`)."
        )
    )
    source: str | None = runtime_field(
        None,
        "Folder with the publisher's files; demo tasks need none.",
        min_length=1,
    )
    train_rows: int | None = Field(
        None, ge=1, le=10_000_000,
        description="Use at most N training examples; default: all, or the demo task's own limit.",
    )
    dev_rows: int | None = Field(
        None, ge=1, le=10_000_000,
        description="Use at most N dev examples.",
    )
    test_rows: int | None = Field(
        None, ge=1, le=10_000_000,
        description="Use at most N test examples; a sample cannot be submitted.",
    )
    seed: int = Field(
        1, ge=0, le=2**31 - 1,
        description="Seed for samples and for building demo tasks.",
    )
    passage_words: int | None = Field(
        None, ge=5, le=1000, description="Words per passage in a demo task."
    )
    max_books: int = Field(
        200, ge=2, le=100_000,
        description="A demo task reads at most N training and N held-out books.",
    )

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        if not self.demo and self.source is None:
            raise ValueError(
                f"task {self.task!r} needs `source`, the folder with the publisher's files"
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
            ExternalFile(f"{split}/{source.path}{inside}", path)
            for split, files in source_files(task, folder).items()
            for source, top in files
            for inside, path in _files_in(top)
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

        from gpt1.tasks.example import write_examples
        from gpt1.tasks.io import TASK_FILE, task_facts

        task, splits, whole, about = (
            _demo(settings, context) if settings.demo else _published(settings)
        )
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


Made = tuple[Task, dict[str, list[Example]], dict[str, int], dict[str, Any]]


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
        name: sample(split.examples, limits.get(name), settings.seed, name)
        for name, split in found.items()
    }
    dropped = {name: dict(split.dropped) for name, split in found.items() if split.dropped}
    return (
        task, splits, {name: len(split.examples) for name, split in found.items()},
        {"dropped_rows": dropped, "scored_on": "dev"},
    )


def _demo(settings: TaskDataSettings, context: Context) -> Made:
    from dataclasses import replace

    from gpt1.tasks.demo import DEV_FROM, make_demo_task
    from gpt1.tasks.demo_settings import SIZES, DemoSettings

    size = SIZES[settings.task]
    words = settings.passage_words or size.words
    wanted = DemoSettings(
        settings.train_rows or size.train, settings.dev_rows or size.dev, words, settings.seed
    )
    made = make_demo_task(settings.task, _demo_books(settings, context), wanted)
    task = task_named(settings.task)
    task = replace(task, labels=made.labels or task.labels)
    splits = {"train": made.train, "dev": made.dev}
    rows = {name: len(examples) for name, examples in splits.items()}
    return task, splits, rows, {"scored_on": DEV_FROM, "words": words}


def _demo_books(settings: TaskDataSettings, context: Context) -> Any:
    """The books' texts, cut as the split says; of a large corpus a number of books drawn by
    seed, so that memory is bounded.
    """
    from gpt1.corpus.parquet_io import read_books
    from gpt1.corpus.split import read_split
    from gpt1.tasks.demo import DemoBooks
    from gpt1.tasks.passages import Region

    rows = read_split(context.fetch(context.input("split").file("split.parquet")))
    chosen = {
        row.book: row
        for kind in ("train", "held_out")
        for row in _draw([row for row in rows if row.set == kind], settings)
    }
    parts = {row.part for row in chosen.values()}
    known: list[Region] = []
    tails: list[Region] = []
    held_out: list[Region] = []
    for file in context.input("clean").under("books/"):
        if Path(file.name).stem not in parts:
            continue
        for book in read_books(context.fetch(file)):
            row = chosen.get(book.id)
            if row is None:
                continue
            if row.set == "held_out":
                held_out.append(Region(book.id, book.author, book.text))
                continue
            known.append(Region(book.id, book.author, book.text[: row.tail_start]))
            if row.tail_start is not None:
                tails.append(Region(book.id, book.author, book.text[row.tail_start :]))
    return DemoBooks(known, tails, held_out)


def _draw(rows: Sequence[Any], settings: TaskDataSettings) -> Sequence[Any]:
    import random

    if len(rows) <= settings.max_books:
        return rows
    return random.Random(f"books/{settings.seed}").sample(list(rows), settings.max_books)


STAGE = TaskData()
