"""What a report is made of: the published outputs of one job, as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """One job of the workflow.

    `kind` is the stage it uses; `files` maps the names of its files to their paths; `origin` says
    where outside data came from, in words that name no path. `making` and the files of measured
    times depend on the clock and the machine: neither may enter a file that is to be the same bytes
    everywhere.
    """

    kind: str
    cell: str
    fingerprint: str = ""
    digest: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict, repr=False)
    making: Mapping[str, Any] = field(default_factory=dict, repr=False)
    origin: str = ""

    def document(self, name: str) -> dict[str, Any]:
        """The JSON object in the file called `name`; empty where the job has no such file."""
        if name not in self.files:
            return {}
        found = json.loads(self.files[name].read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The objects of the JSON Lines file called `name`; none where the job has no such file."""
        if name not in self.files:
            return []
        with self.files[name].open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]

    def fact(self, name: str, file: str = "") -> Any:
        """A figure of the summary or, where the summary lacks it, of the JSON object in `file`;
        None where neither has it.
        """
        if name in self.summary:
            return self.summary[name]
        return self.document(file).get(name) if file else None


def of_kind(sources: Iterable[Source], kind: str) -> list[Source]:
    """The jobs of one kind of stage, in the order given."""
    return [source for source in sources if source.kind == kind]


def only(sources: Sequence[Source], *kinds: str) -> Source:
    """The first job of those kinds; an empty one where the workflow has none, so that each of its
    facts is None.
    """
    return next((one for one in sources if one.kind in kinds), Source(kinds[0], ""))
