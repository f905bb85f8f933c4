"""Writes docs/reference/workflow.md, commands.md and api.md, and workflow.schema.json, from the
code: `python -m docs.reference.make`. A test compares them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gpt1.settings import field_marks

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
NOTE = "*Written by `python -m docs.reference.make` from the code; edit that, not this page.*"

STAGE_KEYS = """## Keys of a stage

- `uses`: the kind of stage: a module of `stages/` or, with a dot, your own; default: the entry's
  name.
- `needs`: the stages whose outputs it reads.
- `with`: its settings, listed below by kind.
- `matrix`: lists of values for settings: one job for each combination.
- `include`: additional matrices of the same settings.
- `resources`: `workers` (default: as many as fit; `pretrain`: 1), and `cpus` and `gpus` for each.
  `min_workers`: the smallest number of ranks to train with while nodes are missing.
- `retries`: how often to retry a failed job (not after a wrong input or setting).
- `timeout`: the time limit of one attempt, such as `90s`, `30m`, `2h`.
- `wait`: how long to wait for a cluster that is large enough; default: fail at once.

`tasks:` at the top lists [the tasks to run](../how-to/task.md#which-tasks-run).

Each profile under `profiles:` has a `description`, its own `tasks`, and overrides the same keys
under its `stages`; `null` restores a default. `--set stage.key=value` changes one setting,
`--set stage.key=[1,2]` makes it an axis of the matrix, `--set tasks=[cola,rte]` selects tasks."""

INTRODUCTION = """## Settings by kind of stage

In parentheses: the type where the default does not show it; the default; where the setting comes
from, the paper (`§4.1`, `table 5`) or the code released with it (`code of 2018`); and the value in
the common `stages` of `workflow.yaml`, if it is another. `workflow.schema.json` has the limits. (r)
marks settings that do not enter the fingerprint, and paths, whose content enters. Keys under
`debug:` are one level deeper: `--set pretrain.debug.log_every=1`."""

GROUPS = {
    "pretrain": {
        "model": "Architecture", "batch_size": "Optimization", "precision": "Computation",
        "validate_every": "Evaluation", "reference_2018": "Code of 2018",
        "checkpoint_every": "Checkpoints",
    }
}
"""The first key of each group of a stage's settings."""

SET_BY_YOU = {
    "pretrain": (
        "for other data or weights, short memory, a loss that diverges, or DeepSpeed",
        "lr_scaling seed exclude_books zero deepspeed max_rollbacks skip_batches init_from"
        " loss_spike_threshold activation_checkpointing snapshot_steps",
    ),
    "finetune": (
        "to save memory or time, to keep other outputs, to choose one of several pretrain jobs, or"
        " to measure what articles claim",
        "gradient_accumulation_steps warmup_steps max_length predict_test keep_model model"
        " pretrain_seed loss classifier",
    ),
}
"""By kind: when to set what neither the paper nor a profile gives; these settings' names."""

SHOWN_BY_DEFAULT = {"int", "float", "str", "bool", "list", "object"}
NO_PRETRAINING = "For `no_pretraining`"
WORKFLOW_OPTIONS = ["`--file`", "`--profile`", "`--set`", "`--store`"]
BY_YOU, UNDER_DEBUG = "Set by you, not by a profile", "Under `debug:`"


def workflow_page() -> str:
    """Every setting of every stage: its type, default, source, and what it does."""
    workflow = yaml.safe_load((ROOT / "workflow.yaml").read_text(encoding="utf-8"))
    kinds = sorted(
        path.stem
        for path in (ROOT / "stages").glob("*.py")
        if path.stem != "contract" and not path.stem.startswith("_")
    )
    parts = ["# Every key of `workflow.yaml`", NOTE, STAGE_KEYS, INTRODUCTION]
    listed: dict[str, str] = {}
    for kind in kinds:
        module = importlib.import_module(f"stages.{kind}")
        stage = module.STAGE
        parts += [f"### `{kind}`", _about(module.__doc__) + _neighbors(stage)]
        when, by_you = SET_BY_YOU.get(kind, ("", ""))
        yours = f"{BY_YOU}, {when}"
        groups: dict[str, tuple[list[str], dict[str, list[str]]]] = {
            title: ([], {}) for title in ("", yours, UNDER_DEBUG)
        }
        schema = stage.settings_model.model_json_schema().get("properties", {})
        for name, field in stage.settings_model.model_fields.items():
            row = _setting(name, field, schema.get(name, {}), sources(workflow, kind, name, field))
            title = yours if name in by_you.split() else ""
            title = UNDER_DEBUG if field_marks(field).get("debug") else title
            rows, same = groups[title]
            if not title and (group := GROUPS.get(kind, {}).get(name)):
                rows.append(f"\n{group}:\n")
            text = f"{name} {field.description}"
            if (field.description or "").startswith(f"{NO_PRETRAINING}:"):
                same.setdefault(f"{NO_PRETRAINING}, as in `pretrain`", []).append(f"`{name}`")
            elif kind in GROUPS or listed.setdefault(text, kind) == kind:
                rows.append(row)
            else:
                same.setdefault(f"As in `{listed[text]}`", []).append(f"`{name}`")
        shown = []
        for title, (rows, same) in groups.items():
            rows += [f"- {where}: {', '.join(names)}." for where, names in same.items()]
            shown += [f"\n{title}:\n", *rows] if title and rows else rows
        parts.append("\n".join(shown).strip() or "No settings.")
    return "\n\n".join(parts) + "\n"


def sources(workflow: dict[str, Any], kind: str, name: str, field: FieldInfo) -> list[str]:
    """Where the value of a setting comes from: the paper, the code of 2018, `stages` of
    workflow.yaml, profiles.
    """
    mark = field_marks(field).get("source")
    found, stage = [mark] if mark else [], workflow["stages"].get(kind, {})
    default = field.get_default(call_default_factory=True)
    value = stage.get("with", {}).get(name, PydanticUndefined)
    if name in stage.get("matrix", {}):
        found.append("`stages`")
    elif value is not PydanticUndefined and value != default:
        found.append(f"`stages`: {_json(value)}")
    elif value is not PydanticUndefined and not mark:
        found.append("`stages`")
    overlays = [overlay["stages"].get(kind, {}) for overlay in workflow["profiles"].values()]
    given = [
        settings
        for spec in overlays
        for settings in (spec.get("with", {}), spec.get("matrix", {}), *spec.get("include", ()))
    ]
    return [*found, "profiles"] if any(name in settings for settings in given) else found


def _about(docstring: str | None) -> str:
    """The first paragraph of a module's docstring, without the name before its colon."""
    about = one_line((docstring or "").partition("\n\n")[0].partition(": ")[2])
    return about[:1].upper() + about[1:]


def _neighbors(stage: Any) -> str:
    words = [
        ("Needs", stage.requires), ("Optional inputs:", stage.optional_inputs),
        ("Can replace", stage.provides),
    ]
    said = [f"{word} {', '.join(f'`{name}`' for name in names)}" for word, names in words if names]
    return "".join(f" {one}." for one in said)


def _setting(
    name: str, field: FieldInfo, schema: dict[str, Any], found: list[str]
) -> str:
    marks = field_marks(field)
    mark = " (r)" if marks.get("runtime") and marks.get("unless") != name else ""
    default = field.get_default(call_default_factory=True)
    kind, shown = _type(schema), default is not PydanticUndefined
    about = [] if shown and kind in SHOWN_BY_DEFAULT else [kind]
    about += [_json(default) if shown else "required"]
    known = [one for one in found if one not in ("`stages`", "profiles")]
    about += [re.sub(r"^paper (?=\d)", "§", one).removeprefix("paper ") for one in known]
    return f"- `{name}`{mark} ({', '.join(about)}): {one_line(field.description)}"


def _json(value: Any) -> str:
    return f"`{json.dumps(value, default=str, ensure_ascii=False)}`"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "/".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "anyOf" in schema:
        return "/".join(dict.fromkeys(_type(one) for one in schema["anyOf"]))
    if schema.get("type") == "array":
        return "list"
    words = {"integer": "int", "number": "float", "string": "str", "boolean": "bool"}
    return words.get(str(schema.get("type")), str(schema.get("type", "mapping")))


def commands_page() -> str:
    """Every command with its arguments and options, each once: those of three or more commands at
    the top, others at the first command that has them.
    """
    import typer.main

    from pipeline.cli.main import EPILOG, app
    from pipeline.cli.models import WHERE

    commands = list(_walk("gpt1", typer.main.get_command(app)))
    rows = {
        name: [_parameter(one) for one in command.params if one.name != "help"]
        for name, command in commands
    }
    times = Counter(row for command in rows.values() for row in command)
    common: dict[str, str] = {}
    for row, count in times.items():
        if count >= 3:
            common.setdefault(_first_name(row), row)
    parts = [
        "# Every command", NOTE, one_line(EPILOG.split("\n\n")[1]),
        "## Options of several commands", "\n".join(common.values()),
        f"{', '.join(WORKFLOW_OPTIONS)} are called workflow options below.",
    ]
    listed: dict[str, str] = {}
    for name, command in commands:
        own: list[str] = []
        same: dict[str, list[str]] = {}
        for row in rows[name]:
            if row in common.values():
                same.setdefault("Also", []).append(_first_name(row))
            elif listed.setdefault(row, name) == name:
                own.append(row)
            else:
                same.setdefault(f"As in `{listed[row]}`:", []).append(_first_name(row))
        if set(WORKFLOW_OPTIONS) <= set(same.get("Also", ())):
            others = [one for one in same["Also"] if one not in WORKFLOW_OPTIONS]
            same["Also"] = ["workflow options", *others]
        own += [f"- {where} {', '.join(names)}." for where, names in sorted(same.items())]
        parts += [f"## `{name}`", one_line(command.help), "\n".join(own)]
    before, where, rest = "\n\n".join(part for part in parts if part).partition(WHERE)
    return f"{before}{where}{rest.replace(WHERE, 'As `CHECKPOINT` above.')}\n"


def _first_name(row: str) -> str:
    return row.split(" ")[1].rstrip(":,")


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word in sorted(inner):
        yield from _walk(f"{name} {word}", inner[word])


def _parameter(parameter: Any) -> str:
    names = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name).upper()}`"
    default = parameter.default
    about = [] if default in (None, False, [], (), "") or callable(default) else [f"`{default}`"]
    if parameter.required:
        about = ["required"]
    if isinstance(parameter.envvar, str):
        about.append(parameter.envvar)
    brackets = f" ({', '.join(about)})" if about else ""
    return f"- {names}{brackets}: {one_line(parameter.help)}"


def api_page() -> str:
    """Every public name: its signature, what it does, its methods."""
    import gpt1
    from pipeline import results

    public = {f"gpt1.{name}": getattr(gpt1, name) for name in gpt1.__all__}
    public["pipeline.results.open_store"] = results.open_store
    parts = [
        "# Python API", NOTE,
        "[notebook.ipynb](../notebook.ipynb) shows it at work. Types, shapes and examples:"
        " `help(gpt1.Shards)`. torch and spaCy load when first needed.",
    ]
    for name, thing in public.items():
        parts.append(f"## `{name}{_signature(thing)}`\n\n{_first_paragraph(thing)}")
        returned = results.StoreResults if thing is results.open_store else thing
        if inspect.isclass(returned) and (methods := list(_methods(returned))):
            parts[-1] += f" Has {', '.join(methods)}."
    return "\n\n".join(parts) + "\n"


def _methods(thing: type) -> Iterator[str]:
    for name, member in vars(thing).items():
        function = getattr(member, "__func__", member)
        if not name.startswith("_") and isinstance(member, property):
            yield f"`{name}`"
        elif not name.startswith("_") and inspect.isfunction(function):
            yield f"`{name}()`"


def _signature(thing: Any) -> str:
    """Names and defaults, without types; not those of many fields."""
    shown = []
    for one in inspect.signature(thing).parameters.values():
        if one.name not in ("self", "cls"):
            shown.append(str(one.replace(annotation=inspect.Parameter.empty)))
    return f"({', '.join(shown)})" if len(shown) < 8 else "(...)"


def _first_paragraph(thing: Any) -> str:
    return one_line((inspect.getdoc(thing) or "").partition("\n\n")[0])


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def pages() -> dict[Path, str]:
    """The generated files by their paths."""
    from pipeline.workflow.json_schema import schema_text

    return {
        HERE / "workflow.md": workflow_page(), HERE / "commands.md": commands_page(),
        HERE / "api.md": api_page(), ROOT / "workflow.schema.json": schema_text(),
    }  # fmt: skip


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}", file=sys.stderr)
