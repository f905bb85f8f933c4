"""`gpt1 init`: a folder to work in, with a workflow.yaml of one's own."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from gpt1.errors import UserError
from gpt1.terminal import show

NAME = "workflow.yaml"


def init(
    folder: Annotated[
        Path, typer.Argument(help="Folder to write to; created if missing.", metavar="FOLDER")
    ],
) -> None:
    """Write a commented workflow.yaml into a folder."""
    target = folder / NAME
    if target.exists():
        raise UserError(f"{target}: already exists and was not changed; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with resources.as_file(resources.files("pipeline") / NAME) as source:
            shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    show(
        f"Wrote {target}. Next, in that folder:\n  gpt1 run --profile demo     # a small version of"
        " everything, in minutes"
    )
