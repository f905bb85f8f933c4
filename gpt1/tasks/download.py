"""Fetching a task's files from the Hugging Face hub, for gpt1/tasks/readers.py to read."""

from __future__ import annotations

from pathlib import Path

from gpt1.errors import UserError
from gpt1.tasks.registry import Task


def download(task: Task, folder: Path) -> list[Path]:
    """Fetch into `folder/owner/name/`; files that are there are not fetched again.

    Returns the task's files there.

    UserError, one line, where the hub cannot be reached, refuses, or holds other files than
    expected.
    """
    if task.hub is None:
        raise UserError(f"{task.title} has no copy to download; {where_to_ask(task)}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    place = folder / task.hub.repo
    patterns = [source.path for sources in task.hub.files.values() for source in sources]
    try:
        snapshot_download(
            task.hub.repo, repo_type="dataset", allow_patterns=patterns, local_dir=place
        )
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        found = sorted(path for pattern in patterns for path in place.glob(pattern))
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"{task.title}: {task.hub.repo} could not be downloaded from the Hugging Face hub"
            f" ({type(error).__name__}: {reason}); connect to the network, or copy"
            f" {', '.join(patterns)} of that dataset into {place} by hand"
            + (f" ({len(found)} files are there)" if found else "")
        ) from None
    missing = [pattern for pattern in patterns if not any(place.glob(pattern))]
    if missing:
        raise UserError(
            f"{task.title}: {task.hub.repo} has no {missing[0]}; its layout has changed: download"
            " the files by hand"
        )
    return sorted(path for pattern in patterns for path in place.glob(pattern))


def where_to_ask(task: Task) -> str:
    """Where the publisher gives out what may not be downloaded, in words."""
    if task.layout == "demo":
        return "it is built from the books and needs no files"
    return f"ask at {task.asked}" if task.asked else "it has no public source"
