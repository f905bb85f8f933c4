"""The JSON Schema of workflow.yaml, for editors: made from the models that validate it."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from gpt1.settings import DEBUG, Settings, debug_keys
from gpt1.terminal import to_json
from pipeline.workflow.schema import ProfileSpec, StageSpec
from pipeline.workflow.stages import load_stage, stage_kinds

MARKS = ("runtime", "unless", "debug", "source")
"""What `gpt1.settings` writes into the schema of a field."""
DURATION = r"^\s*\d+(\.\d+)?\s*[smhd]\s*$"
OBJECT = ["object", "null"]
"""An empty entry of YAML is null."""


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False  # it would repeat the key


def schema_text() -> str:
    """The schema as a file, workflow.schema.json."""
    return f"{to_json(json_schema(), indent=1)}\n"


def json_schema() -> dict[str, Any]:
    """Keys, types, limits and descriptions of workflow.yaml, with the settings of this project's
    stages.

    What depends on other entries, such as `needs`, only `gpt1 plan` checks. An entry of a profile
    without `uses` counts as of the stage of its name.
    """
    kinds = {kind: load_stage(kind).settings_model for kind in stage_kinds()}
    wanted: list[Any] = [(model, "validation") for model in (StageSpec, ProfileSpec)]
    wanted += [(model, "validation") for model in kinds.values()]
    references, made = models_json_schema(wanted, schema_generator=_Generator)
    definitions = made["$defs"]
    for model in set(kinds.values()):
        _nest_debug(definitions[model.__name__], model)
    for kind, model in kinds.items():
        axes = {"propertyNames": {"enum": [*model.model_fields]}}
        settings = {"with": references[model, "validation"], "matrix": axes}
        definitions[kind] = {"properties": {**settings, "include": {"items": axes}}}
    definitions["Resources"]["type"] = OBJECT
    _complete_stage(definitions["StageSpec"], list(kinds))
    by_name = {kind: _stage_called(kind) for kind in kinds}
    stage, profile = ({"$ref": f"#/$defs/{name}"} for name in ("StageSpec", "ProfileSpec"))
    overlays = {"type": "object", "properties": by_name, "additionalProperties": stage}
    definitions["ProfileSpec"]["properties"]["stages"] |= overlays
    tasks = definitions["ProfileSpec"]["properties"]["tasks"]
    tasks["type"] = ["array", "string"]
    definitions["ProfileSpec"]["type"] = OBJECT
    names = {"propertyNames": {"pattern": "^[a-z][a-z0-9_]*$"}, "minProperties": 1}
    others = {**stage, "type": "object", "required": ["uses"]}
    properties = {
        **definitions["ProfileSpec"]["properties"],  # a profile overlays the same keys
        "name": {"type": "string", "description": "Name of the workflow."},
        "tasks": {**tasks, "description": "Tasks to run."},
        "stages": {**overlays, **names, "additionalProperties": others},
        "profiles": {"type": OBJECT, "additionalProperties": profile},
    }
    del properties["description"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "workflow.yaml of gpt1",
        "type": "object", "required": ["stages"], "properties": properties,
        "additionalProperties": False, "$defs": definitions,
    }  # fmt: skip


def _nest_debug(schema: dict[str, Any], model: type[Settings]) -> None:
    """The settings as they are written: some below `debug:`, none required, as a matrix, a profile
    or --set may give them.
    """
    schema.pop("required", None)
    properties = schema.setdefault("properties", {})
    for field in properties.values():
        for mark in MARKS:
            field.pop(mark, None)
    if nested := {name: properties.pop(name) for name in sorted(debug_keys(model))}:
        properties[DEBUG] = {
            "type": OBJECT, "properties": nested, "additionalProperties": False,
            "description": "Settings that no user needs.",
        }  # fmt: skip


def _complete_stage(schema: dict[str, Any], kinds: list[str]) -> None:
    """What is not in the schema of the model: null for a default, one value in place of a list,
    durations such as `30m`; and the settings of the stage that `uses` names. Of a matrix the names
    are checked, not the values.
    """
    schema["type"] = OBJECT
    fields = schema["properties"]
    for field in fields.values():
        if "type" in field:
            field["type"] = [field["type"], "null"]
    fields["needs"]["type"].append("string")
    for matrix in (fields["matrix"], fields["include"]["items"]):
        del matrix["additionalProperties"]
    for duration in ("timeout", "wait"):
        fields[duration]["anyOf"].append({"type": "string", "pattern": DURATION})
    fields["uses"] |= {"anyOf": [{"enum": kinds}, {"pattern": r"\."}, {"type": "null"}]}
    schema["allOf"] = [
        {"if": {"required": ["uses"], "properties": {"uses": {"const": kind}}},
         "then": {"$ref": f"#/$defs/{kind}"}}
        for kind in kinds
    ]  # fmt: skip


def _stage_called(kind: str) -> dict[str, Any]:
    """An entry whose name says what it uses, unless it says it itself."""
    named = {"if": {"type": "object", "not": {"required": ["uses"]}}}
    return {"$ref": "#/$defs/StageSpec", **named, "then": {"$ref": f"#/$defs/{kind}"}}
