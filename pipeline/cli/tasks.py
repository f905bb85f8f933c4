"""`gpt1 tasks` lists the tasks; `gpt1 data get` fetches their files, or books, and says where the
others are asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.tasks.registry import TASKS, Task, task_named
from gpt1.terminal import show
from pipeline.cli.books import get_books
from pipeline.cli.options import Json
from pipeline.cli.output import format_table, print_json

BOOKS = "books"


def list_tasks(as_json: Json = False) -> None:
    """List the tasks: kind, metrics, the paper's scores, official row counts, and where to get
    the files.
    """
    if as_json:
        print_json([task_facts(task) for task in TASKS.values()])
        return
    heading = ("task", "kind", "metrics", "paper", "train/dev/test", "files")
    show(format_table([heading, *map(_row, TASKS.values())]))


def task_facts(task: Task) -> dict[str, Any]:
    """One task's row of the table, plain; figures in per cent."""
    hub = task.hub and {
        "repo": task.hub.repo, "columns": [*task.hub.columns.texts, task.hub.columns.label]
    }
    files = {split: [one.path for one in sources] for split, sources in task.files.items()}
    return {
        "name": task.name, "title": task.title, "kind": task.kind, "labels": list(task.labels),
        "choices": task.choices, "metrics": list(task.metrics), "paper": dict(task.paper),
        "rows": dict(task.rows), "files": files, "folder": task.folder, "hub": hub,
        "asked": task.asked or None,
    }  # fmt: skip


def _row(task: Task) -> tuple[str, ...]:
    paper = ", ".join(f"{value:g} {metric}" for metric, value in task.paper.items())
    rows = "/".join(
        f"{task.rows[split]:,}" if split in task.rows else "-" for split in ("train", "dev", "test")
    )
    files = "from the books" if task.layout == "demo" else "on request"
    return (
        task.name, task.kind, ", ".join(task.metrics), paper or "-", rows if task.rows else "-",
        task.hub.repo if task.hub else files,
    )  # fmt: skip


def get_data(
    names: list[str] | None = None, /, to: Path | None = None, mirror: str | None = None,
    limit: int | None = None,
) -> None:
    """Download public-domain books, or the tasks on the Hugging Face Hub; show where to request
    the others.

    Args:
        names: `books`, or the tasks to get; default: all tasks of the paper.
        to: Folder to download to; default: `books` for books, `data` for tasks.
        mirror: Books: a copy of GitHub's files, at https://, http:// or file:///FOLDER.
        limit: Books: get only this many, a sample of all.
    """
    if names == [BOOKS]:
        get_books(to or Path(BOOKS), mirror, limit)
        return
    if mirror or limit is not None or BOOKS in (names or ()):
        usage = f"gpt1 data get {BOOKS} [--mirror URL] [--limit N]"
        raise UserError(f"books are downloaded alone, with options of their own: {usage}")
    from gpt1.tasks.download import download, where_to_ask

    chosen = [task for task in TASKS.values() if task.layout != "demo"]
    chosen = [task_named(name) for name in names] if names else chosen
    for task in chosen:
        if task.hub is None:
            show(f"{task.name}: not downloaded; {where_to_ask(task)}")
    for task in chosen:
        if task.hub is not None:
            folder = to or Path("data")
            files = download(task, folder)
            show(f"{task.name}: {len(files)} files in {folder / task.hub.repo}")
