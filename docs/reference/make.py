"""Writes docs/reference/workflow.md and commands.md from the code: `python -m docs.reference.make`.
A test compares them.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
NOTE = "*Written by `python -m docs.reference.make` from the code; edit that, not this page.*"

STAGE_KEYS = """## What stands under a stage

| key | what |
|---|---|
| `uses` | the kind of stage, a module of `stages/` or, with dots, of yours; the \
entry's own name when left out |
| `needs` | the stages whose outputs it reads |
| `with` | its settings, below by kind |
| `matrix` | a list of values for one setting or several: one cell for each combination |
| `also` | a list of further matrices of the same settings, whose combinations are added to \
those of `matrix` |
| `resources` | `workers`, and for each of them `cpus` and `gpus`; without `workers` as many as \
fit; `min_workers`: how many ranks a training may go on with while hosts are missing |
| `retries` | how often a cell that failed is tried again (not after a wrong input or setting) |
| `timeout` | how long one try may take, such as `90s`, `30m`, `2h`; a try that takes longer is \
stopped and counts as failed |
| `wait` | how long to wait for a cluster that is large enough; without it a run that cannot \
be placed is refused at once |

`profiles:` overlay the same keys by name, each with a `description` and `stages`; \
`null` takes a setting back to its default.
`gpt1 run --profile NAME` takes one, and `--set stage.key=value` changes one setting for one \
command.
"""


def workflow_page() -> str:
    """Every setting of every stage: its type, default, what it does, and whether it enters the
    fingerprint.
    """
    kinds = sorted(
        path.stem
        for path in (ROOT / "stages").glob("*.py")
        if path.stem != "contract" and not path.stem.startswith("_")
    )
    parts = [
        "# Every key of `workflow.yaml`", NOTE, STAGE_KEYS.strip(),
        "## The kinds of stages, and what stands under `with`",
    ]
    for kind in kinds:
        module = importlib.import_module(f"stages.{kind}")
        stage = module.STAGE
        lines = [
            f"### `{kind}`", one_line(module.__doc__),
            f"Version {stage.version}." + _neighbours(stage),
        ]
        fields = stage.settings_model.model_fields
        if fields:
            rows = ["| key | type | default | what |", "|---|---|---|---|"]
            schema = stage.settings_model.model_json_schema()["properties"]
            rows += [_row(name, field, schema.get(name, {})) for name, field in fields.items()]
            lines.append("\n".join(rows))
        else:
            lines.append("No settings.")
        parts += lines
    parts.append(
        "(p): placement. It says where or how fast and never what, so it is no part of the"
        " fingerprint."
    )
    return "\n\n".join(parts) + "\n"


def _neighbours(stage: Any) -> str:
    words = [
        ("Needs", stage.requires), ("takes also", stage.accepts), ("can stand for", stage.provides),
    ]
    said = [f"{word} {', '.join(f'`{name}`' for name in names)}" for word, names in words if names]
    return f" {'; '.join(said)}." if said else ""


def _row(name: str, field: FieldInfo, schema: dict[str, Any]) -> str:
    extra = field.json_schema_extra
    mark = " (p)" if isinstance(extra, dict) and extra.get("placement") else ""
    return (
        f"| `{name}`{mark} | {cell(_type(schema))} | {cell(_default(field))} |"
        f" {cell(field.description)} |"
    )


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if field.default_factory else field.default
    if value is PydanticUndefined:
        return "must be given"
    return f"`{json.dumps(value, default=str, ensure_ascii=False)}`"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        inner = schema.get("items")
        return f"list of {_type(inner)}" if isinstance(inner, dict) and inner else "list"
    words = {
        "integer": "whole number", "number": "number", "string": "text", "boolean": "true or false",
        "null": "`null`",
    }
    said = words.get(str(schema.get("type")), "table")
    limits = [
        f"{sign} {schema[key]:g}"
        for key, sign in (
            ("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    return f"{said} {' and '.join(limits)}".strip()


def commands_page() -> str:
    """Every command with its arguments and options."""
    import typer.main

    from pipeline.cli import app

    parts = [
        "# Every command", NOTE, "`gpt1 COMMAND --help` says the same in a terminal.",
        one_line(app.info.epilog),
    ]
    for name, command in _walk("gpt1", typer.main.get_command(app)):
        parts.append(f"## `{name}`")
        parts.append(" ".join((command.help or "").split()))
        rows = [
            _parameter(parameter) for parameter in command.params if parameter.name not in ("help",)
        ]
        if rows:
            parts.append("\n".join(["| | default | what |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word in sorted(inner):
        yield from _walk(f"{name} {word}", inner[word])


def _parameter(parameter: Any) -> str:
    names = (
        ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
        or f"`{parameter.name}`"
    )
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name).upper()}`"
    default = (
        ""
        if parameter.default in (None, False, [], ()) or callable(parameter.default)
        else f"`{parameter.default}`"
    )
    if parameter.required:
        default = "must be given"
    variable = f" ({parameter.envvar})" if isinstance(parameter.envvar, str) else ""
    return (
        f"| {names} | {(cell(default) + variable).strip()} |"
        f" {cell(getattr(parameter, 'help', ''))} |"
    )


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def cell(text: str | None) -> str:
    return one_line(text).replace("|", "\\|")


def pages() -> dict[Path, str]:
    """The pages by their paths."""
    return {HERE / "workflow.md": workflow_page(), HERE / "commands.md": commands_page()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}", file=sys.stderr)
