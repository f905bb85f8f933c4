"""Options that several commands take, and what the shell completes them with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gpt1.errors import UserError


def flag(name: str, help: str) -> Any:
    """An option without a value; the help page would show one, `<bool>`."""
    return typer.Option(name, help=help, metavar="")


def profiles(context: typer.Context, incomplete: str) -> list[str]:
    """The profiles of the workflow that begin so."""
    return [name for name in _raw(context).get("profiles") or {} if name.startswith(incomplete)]


def stages(context: typer.Context, incomplete: str) -> list[str]:
    """The stages of the workflow that begin so."""
    return [name for name in _raw(context).get("stages") or {} if name.startswith(incomplete)]


def _raw(context: typer.Context) -> dict[str, Any]:
    """The workflow as it is written; nothing where it cannot be read, because completion has nobody to tell."""
    from pipeline.document import load

    try:
        return dict(load(context.params.get("file") or Path("workflow.yaml")).data)
    except (UserError, OSError, TypeError, ValueError):
        return {}


StoreOption = Annotated[
    str, typer.Option("--store", "-s", help="Where all results are: a folder, or s3://BUCKET/FOLDER.", envvar="GPT1_STORE")
]
File = Annotated[Path, typer.Option("--file", "-f", help="The workflow.")]
Profile = Annotated[
    str | None, typer.Option("--profile", "-p", help="A profile of the workflow, such as demo.", autocompletion=profiles)
]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="stage.key=value: another value for one setting. Repeatable.")]
Stages = Annotated[
    list[str] | None,
    typer.Argument(help="Stages (or cells) to make, with what they need; all when none is named.", autocompletion=stages),
]
Start = Annotated[str | None, typer.Option("--from", help="This stage and all that depends on it.", autocompletion=stages)]
Only = Annotated[bool, flag("--only", "The named stages and nothing they need.")]
Force = Annotated[bool, flag("--force", "Make the named stages (or all) again though they are done.")]
Json = Annotated[bool, flag("--json", "Print JSON.")]
