"""`gpt1 init`: a folder with a workflow.yaml; `gpt1 schema`: the JSON Schema of that file."""

from __future__ import annotations

import shlex
from importlib import resources
from pathlib import Path

from gpt1.errors import UserError
from gpt1.terminal import show
from gpt1.weights.manifest import WORKFLOW_FILE, compare_files, read_manifest
from pipeline.cli.output import named
from pipeline.workflow.json_schema import schema_text

SCHEMA, SOURCES = "workflow.schema.json", "SOURCES.md"


def init(folder: Path, /, export: Path | None = None) -> None:
    """Write a commented workflow.yaml into a folder, and its JSON Schema for editors; or the
    workflow of an export, which makes its model again, and a list of the sources that it needs.

    Args:
        folder (FOLDER): Folder to write to; created if missing.
        export (--from): Folder written by `gpt1 export hf`.
    """
    template = resources.files("pipeline") / WORKFLOW_FILE
    files = {SCHEMA: schema_text(), WORKFLOW_FILE: template.read_text(encoding="utf-8")}
    steps = ["gpt1 run --profile demo     # a small version of everything, in minutes"]
    if export is not None:
        files |= _files_of(export)
        compare = shlex.join(["gpt1", "diff", "--with", str(export.absolute())])
        steps = [f"# put the source files in place: {SOURCES}", "gpt1 run", compare]
    for target in (folder / name for name in files if name != SCHEMA):
        if target.exists():
            raise UserError(f"{target}: already exists and was not changed; choose another folder")
    target = folder / WORKFLOW_FILE
    with named(str(target), "choose another folder"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    show("\n  ".join([f"Wrote {target}. Next, in that folder:", *steps]))


def _files_of(export: Path) -> dict[str, str]:
    """The workflow of an export, and the list of its sources. UserError where it has none, or
    another one than the manifest says.
    """
    from gpt1.report.render import environment

    manifest = read_manifest(export)
    if not manifest.jobs or WORKFLOW_FILE not in manifest.files:
        problem = "its model was exported without the records of the jobs that made it"
        raise UserError(f"{export}: has no {WORKFLOW_FILE}: {problem}; expected an export with one")
    for kind, name, why in compare_files(export, manifest, [WORKFLOW_FILE]):
        raise UserError(f"{export / name}: {kind}: {why}; download the export again")
    text = (export / WORKFLOW_FILE).read_text(encoding="utf-8")
    note = environment().get_template("sources.md.j2").render(manifest=manifest)
    return {WORKFLOW_FILE: text, SOURCES: note}


def schema() -> None:
    """Print the JSON Schema of workflow.yaml, with which an editor completes and checks keys."""
    show(schema_text(), end="")
