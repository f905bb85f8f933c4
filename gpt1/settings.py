"""What a settings model is made of: the base class, and the marks of its fields.

A settings model is a library's configuration and, at the same time, what is written under a stage's
`with:` in workflow.yaml: names, defaults, limits and descriptions are written once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Settings(BaseModel):
    """The settings under a stage's `with:`.

    Every field is semantic (it enters the fingerprint) unless made by `runtime_field`. Fields
    marked DEBUG_FIELD are written under `debug:`; the model itself is flat. The text under a field
    is its description.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def semantic(self) -> dict[str, Any]:
        """The settings that decide what comes out, as JSON values."""
        chosen = self.model_dump(mode="json")
        for name in not_fingerprinted(type(self), chosen):
            del chosen[name]
        for name, dumped in chosen.items():
            if isinstance(dumped, dict) and isinstance(value := getattr(self, name), Settings):
                chosen[name] = value.semantic()
        return chosen


def not_fingerprinted(model: type[Settings], settings: Mapping[str, Any]) -> list[str]:
    """The fields of a model that do not enter the fingerprint of these `settings`."""
    return [
        name
        for name, (unless, default) in _runtime_unless(model).items()
        if not unless or settings.get(unless, default) == default
    ]


@functools.cache
def _runtime_unless(model: type[Settings]) -> dict[str, tuple[str, Any]]:
    """The runtime fields of a model, each with its `unless` and that one's default."""
    fields = model.model_fields
    marks = {name: field_marks(field) for name, field in fields.items()}
    unless = {name: mark.get("unless", "") for name, mark in marks.items() if mark.get("runtime")}
    return {
        name: (other, fields[other].default if other else None) for name, other in unless.items()
    }


DEBUG = "debug"
"""The key under `with:` that holds the settings marked DEBUG_FIELD."""

DEBUG_FIELD: dict[str, Any] = {DEBUG: True}
"""For `json_schema_extra`: written under `debug:` in workflow.yaml, as no user needs to set it."""

CODE_OF_2018: dict[str, Any] = {"source": "code of 2018"}
"""For `json_schema_extra`: the value is that of the code released with the paper, or the setting
chooses between that code's way and ours.
"""


def paper(where: str) -> dict[str, Any]:
    """For `json_schema_extra`: the section, table or figure of the paper that states the value."""
    return {"source": f"paper {where}"}


def runtime_field(
    default: Any, description: str | None = None, *, mark: Mapping[str, Any] | None = None,
    unless: str = "", **limits: Any,
) -> Any:
    """A field that does not enter the fingerprint itself: where or how fast, a path (the files'
    content enters), or `reference_2018` (the settings it selects enter).

    `mark`: DEBUG_FIELD or CODE_OF_2018. `unless` names a setting: while that has another value than
    its default, the field does enter. A setting added to a stage names itself, and what was made
    before stays valid.
    """
    extra = {"runtime": True, **({"unless": unless} if unless else {}), **(mark or {})}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def debug_keys(model: type[BaseModel]) -> set[str]:
    """The settings that belong under `debug:`; none if a setting itself is called `debug`."""
    fields = model.model_fields
    found = {name for name, field in fields.items() if field_marks(field).get(DEBUG)}
    return set() if DEBUG in fields else found


def field_marks(field: FieldInfo) -> Mapping[str, Any]:
    """The marks of a settings field: `runtime`, `unless`, `debug`, `source`."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
