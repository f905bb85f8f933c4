"""The form of workflow.yaml: what may stand where, and one clear line for what may not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gpt1.errors import UserError
from gpt1.settings import field_marks
from pipeline.workflow.yaml_source import KeyPath, YamlDocument, nearest

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(value: Any) -> Any:
    """`90`, `"90s"`, `"30m"`, `"2h"` or `"1d"` in seconds; anything else is refused."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)
        if not match:
            raise ValueError("expected a duration such as 90s, 30m, 2h or 1d")
        return float(match[1]) * _UNITS[match[2]]
    return value


Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ResourceSpec(_Strict):
    """What a stage may use."""

    workers: int | None = Field(
        None, ge=1, description="Number of processes; default: as many as fit."
    )
    cpus: float = Field(1, gt=0, description="CPU cores per process.")
    gpus: float = Field(
        0, ge=0, description="GPUs per process; a fraction lets small jobs share one."
    )
    min_workers: int | None = Field(
        None,
        ge=1,
        description=(
            "Smallest number of ranks to start or continue training with while nodes are missing."
        ),
    )

    @model_validator(mode="after")
    def _some_of_all(self) -> ResourceSpec:
        if self.min_workers is not None and self.min_workers > (self.workers or 1):
            raise ValueError(
                f"min_workers {self.min_workers} is more than workers {self.workers or 1}; lower"
                " it, or raise workers"
            )
        return self


class StageSpec(_Strict):
    """One entry under `stages:`."""

    uses: str = Field(
        "",
        description=(
            "A file of stages/, or your own module (my.stage); default: the entry's name."
        ),
    )
    needs: tuple[str, ...] = Field((), description="Stages whose output it reads.")
    with_: dict[str, Any] = Field(
        default_factory=dict, alias="with", description="Settings of the stage."
    )
    matrix: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict, description="Lists of values: one job per combination."
    )
    include: tuple[dict[str, tuple[Any, ...]], ...] = Field(
        (), description="Additional matrices, whose combinations are added to `matrix`."
    )
    resources: ResourceSpec = Field(
        default_factory=lambda: ResourceSpec.model_validate({}),
        description="Resources of the stage.",
    )
    retries: int = Field(0, ge=0, le=100, description="How often to retry a failed job.")
    timeout: Duration | None = Field(
        None, description="Time limit of one attempt, such as 90s, 30m, 2h."
    )
    wait: Duration | None = Field(
        None, description="How long to wait for resources the cluster does not have yet."
    )


class ProfileSpec(_Strict):
    """One entry under `profiles:`; overlays the same keys."""

    description: str = Field("", description="One sentence.")
    stages: dict[str, dict[str, Any] | None] = Field(
        default_factory=dict, description="Overrides of `stages:`."
    )


SPEC_KEYS = {(info.alias or name) for name, info in StageSpec.model_fields.items()}


DEBUG = "debug"
"""The key under `with:` that holds the settings marked DEBUG_FIELD."""


def debug_keys(model: type[BaseModel]) -> set[str]:
    """The settings that belong under `debug:`; none if a setting itself is called `debug`."""
    fields = model.model_fields
    found = {name for name, field in fields.items() if field_marks(field).get(DEBUG)}
    return set() if DEBUG in fields else found


def flatten_debug(
    document: YamlDocument, model: type[BaseModel], values: Mapping[str, Any], path: KeyPath
) -> dict[str, Any]:
    """`values` without the level `debug:`, for `model` is flat.

    UserError for a setting on the wrong side of `debug:`.
    """
    keys = debug_keys(model)
    if not keys:
        return dict(values)
    stage, name = path[1], ".".join(map(str, path))
    for key in sorted(keys & values.keys()):
        shown = _yaml(values[key])
        raise UserError(
            f"{document.where((*path, key))}: {name}.{key}: found directly under `with:`, expected"
            f" under `debug:`; write `debug: {{{key}: {shown}}}`, or --set"
            f" {stage}.{DEBUG}.{key}={shown}"
        )
    flat, inner = dict(values), (*path, DEBUG)
    nested = flat.pop(DEBUG, None) or {}
    if not isinstance(nested, dict):
        raise UserError(
            f"{document.where(inner)}: {name}.{DEBUG}: expected settings such as"
            f" `{{{min(keys)}: …}}`, found {nested!r}"
        )
    for key in sorted(nested.keys() - keys):
        where, shown = document.where((*inner, key)), _yaml(nested[key])
        if key in model.model_fields:
            raise UserError(
                f"{where}: {name}.{DEBUG}.{key}: found under `debug:`, expected directly under"
                f" `with:`; write `{key}: {shown}`, or --set {stage}.{key}={shown}"
            )
        raise UserError(f"{where}: unknown key '{name}.{DEBUG}.{key}'; {nearest(key, keys)}")
    return {**flat, **nested}


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def parse(document: YamlDocument, model: type[BaseModel], data: Any, path: KeyPath) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError(_first_error(document, model, error, path)) from None


def _first_error(
    document: YamlDocument, model: type[BaseModel], error: ValidationError, path: KeyPath
) -> str:
    """One line for the first thing pydantic refused: where, which key, what was found, what was
    expected.
    """
    problem, debug = error.errors(include_url=False)[0], debug_keys(model)
    inner = (DEBUG,) if problem["loc"][:1] and problem["loc"][0] in debug else ()
    where = (*path, *inner, *problem["loc"])
    name = ".".join(str(step) for step in where)
    if problem["type"] == "extra_forbidden":
        known = {
            info.alias or (f"{DEBUG}.{field_name}" if field_name in debug else field_name)
            for field_name, info in _model_at(model, problem["loc"][:-1]).model_fields.items()
        }
        return (
            f"{document.where(where)}: unknown key {name!r};"
            f" {nearest(str(problem['loc'][-1]), known)}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
    return f"{document.where(where)}: {name}: {message}{shown}"


def _model_at(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    for step in path:
        for name, info in model.model_fields.items():
            if (
                step in (name, info.alias)
                and isinstance(info.annotation, type)
                and issubclass(info.annotation, BaseModel)
            ):
                model = info.annotation
    return model
