"""manifest.json of an export: size and sha256 of every file, and the jobs that made the model."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from gpt1.errors import UserError
from gpt1.paths import leads_out
from gpt1.train.checkpoint import FileDigest, content_sha256, describe_file

MANIFEST_FILE = "manifest.json"
WORKFLOW_FILE = "workflow.yaml"
CARD = "README.md"
FOR_READERS = (CARD, "LICENSE", "report.html", "results.json")
"""Files that no program loads: a publisher may edit the card and add the others."""


class DamagedManifest(UserError):
    """A manifest that is not what was written."""


class ExportedJob(BaseModel):
    """A job that led to the model, from its record; it names no path and no host."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Its stage in workflow.yaml."""
    cell: str
    """Its name in the workflow that it ran in."""
    stage: str
    fingerprint: str
    digest: str
    """Of its output: names and contents of all files that are not volatile."""
    identity: dict[str, Any]
    """All that the fingerprint hashes: settings, inputs, and under `files` the digest of each
    source file by name.
    """
    places: dict[str, Any]
    """The settings that say where its source files are."""
    summary: dict[str, Any]
    seconds: float
    code: str
    git_commit: str | None
    packages: dict[str, str]


class ExportManifest(BaseModel):
    """What manifest.json has. `jobs`: needed ones first, the model's own last; none where the model
    is of no store.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    model: str
    files: dict[str, FileDigest]
    jobs: tuple[ExportedJob, ...] = ()


def write_manifest(folder: Path, model: str, jobs: Sequence[ExportedJob]) -> Path:
    """Describe all files that are in `folder` now; the manifest carries its own sha256."""
    names = [name for name in _files(folder) if name != MANIFEST_FILE]
    files = {name: describe_file(folder / name) for name in names}
    content = ExportManifest(model=model, files=files, jobs=tuple(jobs)).model_dump(mode="json")
    content["sha256"] = content_sha256(content)
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def read_manifest(folder: Path) -> ExportManifest:
    """The manifest of an export. UserError where there is none, DamagedManifest where it is not as
    it was written.
    """
    file = folder / MANIFEST_FILE
    damaged = DamagedManifest(f"{file}: is damaged; download or export the folder again")
    try:
        if file.exists() and not file.is_file():  # reading a pipe would never end
            raise damaged
        content = json.loads(file.read_bytes())
        signature = content.pop("sha256")
        found = ExportManifest.model_validate(content)
    except (FileNotFoundError, NotADirectoryError):
        expected = "expected a folder written by `gpt1 export hf` or the stage `export`"
        raise UserError(f"{file}: no such file; {expected}") from None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise damaged from None
    if signature != content_sha256(content) or any(map(leads_out, found.files)):
        raise damaged
    return found


def compare_files(
    folder: Path, manifest: ExportManifest, names: Collection[str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """(`damaged`, `edited`, `missing` or `extra`, name, why) of each file that is not as the
    manifest says; of all files, or of those of these `names`. `edited`: the card.

    Hidden files, such as a hub's .gitattributes, and those for readers may be added.
    """
    for name in manifest.files if names is None else names:
        path, expected = folder / name, manifest.files[name]
        try:
            if not path.is_file():  # reading a pipe would never end
                is_there = path.exists()
                why = "is not a file" if is_there else "no such file"
                yield "damaged" if is_there else "missing", name, why
            elif (found := describe_file(path)) != expected:
                kind = "edited" if name == CARD else "damaged"
                yield kind, name, f"found sha256 {found.sha256}, expected {expected.sha256}"
        except OSError as error:
            yield "damaged", name, f"cannot be read ({error.strerror})"
    for name in _files(folder) if names is None else ():
        if name not in (*manifest.files, MANIFEST_FILE, *FOR_READERS):
            yield "extra", name, f"{MANIFEST_FILE} does not list it"


def _files(folder: Path) -> list[str]:
    """The names of all files below a folder that are not hidden."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    hidden = re.compile(r"(^|/)\.")
    return sorted(name for path in paths if not hidden.search(name := path.as_posix()))
