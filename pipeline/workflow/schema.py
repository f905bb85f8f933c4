"""The form of workflow.yaml: what may stand where, and one clear line for what may not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gpt1.errors import UserError
from gpt1.settings import DEBUG, debug_keys
from pipeline.workflow.yaml_source import KeyPath, YamlDocument, nearest
from stages.contract import Resources

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(value: Any) -> Any:
    """`90`, `"90s"`, `"30m"`, `"2h"` or `"1d"` in seconds; anything else is refused."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*", value)
        if not match:
            raise ValueError("expected a duration such as 90s, 30m, 2h or 1d")
        return float(match[1]) * _UNITS[match[2]]
    return value


def as_list(value: Any) -> Any:
    """A list as it is; one value as a list of one."""
    return value if isinstance(value, list | tuple) else [value]


Duration = Annotated[float, BeforeValidator(seconds), Field(gt=0)]
TaskNames = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(as_list)]
Matrix = dict[str, Annotated[tuple[Any, ...], BeforeValidator(as_list)]]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True
    )


class StageSpec(_Strict):
    """One entry under `stages:`."""

    uses: str = ""
    """A file of stages/, or your own module (my.stage); default: the entry's name."""
    needs: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """Stages whose output it reads."""
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Settings of the stage."""
    matrix: Matrix = Field(default_factory=dict)
    """Lists of values: one job per combination."""
    include: tuple[Matrix, ...] = ()
    """Additional matrices, whose combinations are added to `matrix`."""
    resources: Resources = Resources()
    """Resources of the stage."""
    retries: int = Field(0, ge=0, le=100)
    """How often to retry a failed job."""
    timeout: Duration | None = None
    """Time limit of one attempt, such as 90s, 30m, 2h."""
    wait: Duration | None = None
    """How long to wait for resources the cluster does not have yet."""

    def with_axis(self, setting: str) -> StageSpec:
        """The entry with the value, or values, of a setting as an axis of each matrix."""
        with_ = dict(self.with_)
        axis = {setting: as_list(with_.pop(setting))}
        include = tuple({**one, **axis} for one in self.include)
        changed = {"with_": with_, "matrix": {**self.matrix, **axis}, "include": include}
        return self.model_copy(update=changed)

    @property
    def matrices(self) -> list[tuple[KeyPath, Matrix]]:
        """Each matrix, and where it is in the entry."""
        more = [(("include", number), one) for number, one in enumerate(self.include)]
        return [(("matrix",), self.matrix), *more]


class ProfileSpec(_Strict):
    """One entry under `profiles:`; overlays the same keys."""

    description: str = ""
    """One sentence."""
    tasks: TaskNames = ()
    """Tasks in place of the workflow's list."""
    stages: dict[str, dict[str, Any] | None] = Field(default_factory=dict)
    """Overrides of `stages:`."""


SPEC_KEYS = {(info.alias or name) for name, info in StageSpec.model_fields.items()}


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
        raise document.error(
            (*path, key), f"{name}.{key}: found directly under `with:`, expected under `debug:`;"
            f" write `debug: {{{key}: {shown}}}`, or --set {stage}.{DEBUG}.{key}={shown}",
        )
    flat, inner = dict(values), (*path, DEBUG)
    nested = flat.pop(DEBUG, None) or {}
    if not isinstance(nested, dict):
        such = f"{{{min(keys)}: …}}"
        problem = f"{name}.{DEBUG}: expected settings such as `{such}`, found {nested!r}"
        raise document.error(inner, problem)
    for key in sorted(nested.keys() - keys):
        shown, problem = _yaml(nested[key]), f"unknown key '{name}.{DEBUG}.{key}'"
        if key in model.model_fields:
            problem = f"{name}.{DEBUG}.{key}: found under `debug:`, expected directly under `with:`"
            advice = f"write `{key}: {shown}`, or --set {stage}.{key}={shown}"
            raise document.error((*inner, key), f"{problem}; {advice}")
        raise document.error((*inner, key), f"{problem}; {nearest(key, keys)}")
    return {**flat, **nested}


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def parse(document: YamlDocument, model: type[BaseModel], data: Any, path: KeyPath) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first_error(document, model, error, path) from None


def _first_error(
    document: YamlDocument, model: type[BaseModel], error: ValidationError, path: KeyPath
) -> UserError:
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
        advice = nearest(str(problem["loc"][-1]), known)
        return document.error(where, f"unknown key {name!r}; {advice}")
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
    return document.error(where, f"{name}: {message}{shown}")


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
