"""Artifacts as plain values, for the report and the model card."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from gpt1.paths import FILE, is_url, path_of_uri
from gpt1.report.sources import Source
from gpt1.settings import field_marks
from stages._finetuning import Fetch
from stages.contract import Artifact, StoredFile


class _Fetched(Mapping[str, Path]):
    """The paths of files by name, each fetched when it is asked for: few are read."""

    def __init__(self, files: Mapping[str, StoredFile], fetch: Fetch) -> None:
        self._files, self._fetch = files, fetch

    def __getitem__(self, name: str) -> Path:
        return self._fetch(self._files[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def source_of(artifact: Artifact, fetch: Fetch) -> Source:
    """The published files, settings and figures of a cell, without paths of this machine."""
    return Source(
        artifact.stage, artifact.cell, artifact.fingerprint, artifact.digest, _semantic(artifact),
        artifact.summary, _Fetched(artifact.files, fetch), artifact.provenance,
        _origin(artifact.settings),
    )  # fmt: skip


def _origin(settings: Mapping[str, Any]) -> str:
    """Where a stage read from: `embedded`, an address without what may be secret in it, the last
    name of a folder.
    """
    source = next(
        (settings[name] for name in ("source", "init_from", "checkpoint") if settings.get(name)), ()
    )
    words = []
    for one in [source] if isinstance(source, str) else list(source):
        if one == "embedded":
            words.append("Public-domain prose bundled with an installed package")
        elif is_url(one) and not one.startswith(FILE):
            url = urlsplit(one)
            words.append(f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}")
        else:
            path = path_of_uri(one) if one.startswith(FILE) else PurePath(one)
            words.append(
                "A folder" if path.name in ("", "..") else f"The folder or file {path.name!r}"
            )
    return ", ".join(words)


def _module(kind: str) -> str:
    """A kind with a dot in its name is a module of somebody else's."""
    return kind if "." in kind else f"stages.{kind}"


def _semantic(artifact: Artifact) -> dict[str, Any]:
    """The settings without those that only say where or how fast: paths of this machine have no
    place in a report.
    """
    fields = importlib.import_module(_module(artifact.stage)).STAGE.settings_model.model_fields
    marks = {name: field_marks(field) for name, field in fields.items()}
    settings = artifact.settings
    placed = {
        name
        for name, mark in marks.items()
        if mark.get("runtime") and not settings.get(mark.get("unless", ""))
    }
    return {name: value for name, value in settings.items() if name not in placed}
