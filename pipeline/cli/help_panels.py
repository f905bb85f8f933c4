"""What `gpt1 --help` says: the commands by what one wants to do, and the first steps."""

from __future__ import annotations

import typer
from typer.models import CommandInfo, TyperInfo

PANELS = {
    "Run the workflow": ("run", "plan", "submit", "jobs", "logs", "stop", "pack"),
    "Inspect it": ("status", "graph", "path", "diff", "trace", "describe", "verify", "ui", "track"),
    "Use the models": ("generate", "predict", "perplexity", "import", "export"),
    "Set up": ("init", "doctor", "tasks", "data", "gc"),
}
"""In the order of the help page; a command that is not listed comes at its end."""

EPILOG = """First steps: `gpt1 doctor` checks this machine; `gpt1 run --profile demo` runs a \
small version of everything, in minutes;
`gpt1 status --explain` shows each stage's state and why; `gpt1 ui` shows the runs in MLflow.

Commands that read the workflow take --profile, --set stage.key=value, --file, and --store \
(or GPT1_STORE).
Without the first three, read-only commands use those of the store's last run, and say so.
`gpt1 run` resumes where it stopped. Exit status: 0 success, 1 a stage failed, 2 invalid input or \
settings, 3 locked by another run, 130 interrupted.

`gpt1 COMMAND --help` shows details; `gpt1 --version` shows the commit; `gpt1 --install-completion`
sets up shell completion. docs/README.md lists the documentation."""


def arrange(app: typer.Typer) -> None:
    """Put every command and group of `app` in its panel, and in that order."""
    places = {
        name: (number, panel)
        for number, (panel, name) in enumerate((p, n) for p, names in PANELS.items() for n in names)
    }
    infos: list[CommandInfo | TyperInfo] = [*app.registered_commands, *app.registered_groups]
    for info in infos:
        info.rich_help_panel = places.get(_name(info), (0, None))[1] or "More"
    app.registered_commands.sort(key=lambda info: places.get(_name(info), (len(places), ""))[0])


def _name(info: object) -> str:
    name = getattr(info, "name", None)
    return (
        name if isinstance(name, str) else getattr(getattr(info, "callback", None), "__name__", "")
    )
