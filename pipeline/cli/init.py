"""`gpt1 init`: a folder with a workflow.yaml; `gpt1 schema`: the JSON Schema of that file."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from gpt1.errors import UserError
from gpt1.terminal import show
from pipeline.cli.output import named
from pipeline.workflow.json_schema import schema_text

NAME, SCHEMA = "workflow.yaml", "workflow.schema.json"


def init(folder: Path, /) -> None:
    """Write a commented workflow.yaml into a folder, and its JSON Schema for editors.

    Args:
        folder (FOLDER): Folder to write to; created if missing.
    """
    target = folder / NAME
    if target.exists():
        raise UserError(f"{target}: already exists and was not changed; choose another folder")
    source = resources.files("pipeline") / NAME
    with named(str(target), "choose another folder"), resources.as_file(source) as template:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SCHEMA).write_text(schema_text(), encoding="utf-8")
        shutil.copyfile(template, target)
    command = "gpt1 run --profile demo     # a small version of everything, in minutes"
    show(f"Wrote {target}. Next, in that folder:\n  {command}")


def schema() -> None:
    """Print the JSON Schema of workflow.yaml, with which an editor completes and checks keys."""
    show(schema_text(), end="")
