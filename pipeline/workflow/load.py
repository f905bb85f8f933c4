"""workflow.yaml: read, overlaid by a profile and `--set`, validated whole, and expanded into cells.

Nothing here needs torch, Ray or MLflow; stages are imported late, by the name after `uses:`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from pipeline.workflow.expand import Workflow, expand, ordered
from pipeline.workflow.imports import is_dotted
from pipeline.workflow.schema import SPEC_KEYS, ProfileSpec, StageSpec, parse
from pipeline.workflow.user_code import find_user_code, install
from pipeline.workflow.yaml_source import KeyPath, YamlDocument, load, nearest, scalar

KEYS = {"name", "stages", "profiles"}


def read(file: Path, profile: str | None = None, assignments: Sequence[str] = ()) -> Workflow:
    """Read and validate a workflow, and let this process import the modules of the user's that it
    names.

    UserError (with file and line) for anything that is wrong in it.
    """
    document = load(file)
    data = document.data
    if not isinstance(data, dict):
        found = type(data).__name__
        raise UserError(f"{file}: expected the keys name, stages, and profiles; found {found}")
    for key in data:
        if key not in KEYS:
            raise document.error((key,), f"unknown key {key!r}; {nearest(key, KEYS)}")
    stages = data.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise document.error(("stages",), "`stages:` must name at least one stage")
    for node, spec in stages.items():
        if not isinstance(spec, dict | None):
            problem = f"stage {node!r}: expected keys such as needs and with, found {spec!r}"
            raise document.error(("stages", node), problem)
    merged = {node: dict(spec or {}) for node, spec in stages.items()}
    _overlay_profile(document, merged, data.get("profiles") or {}, profile)
    for assignment in assignments:
        _assign(document, merged, assignment)
    specs = {node: _stage_spec(document, node, spec) for node, spec in merged.items()}
    order = ordered(document, specs)
    code = find_user_code(file, _modules(document, specs))
    install(code)
    name, cells = str(data.get("name", "gpt1")), expand(document, specs, order)
    return Workflow(name, profile, file, cells, tuple(assignments), code)


def _modules(document: YamlDocument, specs: Mapping[str, StageSpec]) -> dict[str, str]:
    """The modules that stages and tasks are named by, which have a dot in their names -> where."""
    found: dict[str, str] = {}
    for node, spec in specs.items():
        named: list[tuple[KeyPath, Any]] = [(("uses",), spec.uses)]
        named.append((("with", "task"), spec.with_.get("task")))
        for path, matrix in spec.matrices:
            named += [((*path, "task"), task) for task in matrix.get("task", ())]
        for path, name in named:
            if is_dotted(name):
                found.setdefault(name, document.where(("stages", node, *path)))
    return found


def _overlay_profile(
    document: YamlDocument, merged: dict[str, dict[str, Any]], profiles: Any, profile: str | None
) -> None:
    if not isinstance(profiles, dict):
        raise document.error(("profiles",), "`profiles:` must map names to profiles")
    for name, raw in profiles.items():
        parsed = parse(document, ProfileSpec, raw or {}, ("profiles", name))
        for node in parsed.stages:
            if node not in merged:
                problem = f"unknown stage {node!r}; {nearest(node, merged)}"
                raise document.error(("profiles", name, "stages", node), problem)
    if profile is None:
        return
    if profile not in profiles:
        raise document.error((), f"unknown profile {profile!r}; {nearest(profile, profiles)}")
    for node, overlay in ((profiles[profile] or {}).get("stages") or {}).items():
        _merge(merged[node], overlay or {})
        _adopt_lines(document, ("profiles", profile, "stages", node), ("stages", node))


def _merge(base: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict) and key != "matrix":
            base[key] = dict(base[key])
            _merge(base[key], value)
        else:
            base[key] = value


def _adopt_lines(document: YamlDocument, source: KeyPath, target: KeyPath) -> None:
    """What a profile says stands where the profile says it."""
    for path, line in list(document.lines.items()):
        if path[: len(source)] == source and len(path) > len(source):
            document.lines[(*target, *path[len(source) :])] = line


def _assign(document: YamlDocument, merged: dict[str, dict[str, Any]], assignment: str) -> None:
    target, equals, text = assignment.partition("=")
    node, _, key = target.strip().partition(".")
    problem = "expected stage.key=value, such as pretrain.lr=1e-3"
    if equals and key:
        problem = "" if node in merged else f"unknown stage {node!r}; {nearest(node, merged)}"
    if problem:
        raise UserError(f"--set {assignment!r}: {problem}")
    keys = key.split(".")
    if keys[0] not in SPEC_KEYS:
        keys = ["with", *keys]
    place: dict[str, Any] = merged[node]
    for step in keys[:-1]:
        inner = place.get(step)
        place[step] = dict(inner) if isinstance(inner, dict) else {}
        place = place[step]
    place[keys[-1]] = scalar(text)
    if keys[0] == "with" and len(keys) > 1:
        _drop_axis(merged[node], keys[1])
    for end in range(1, len(keys) + 1):
        document.lines.pop(("stages", node, *keys[:end]), None)


def _drop_axis(raw: dict[str, Any], setting: str) -> None:
    """A setting that the command gives one value is no axis any more."""

    def without(matrix: Any) -> Any:
        if not isinstance(matrix, dict):
            return matrix
        return {axis: values for axis, values in matrix.items() if axis != setting}

    raw |= {"matrix": without(raw.get("matrix"))}
    if isinstance(raw.get("include"), list):
        raw["include"] = [without(matrix) for matrix in raw["include"]]


def _stage_spec(document: YamlDocument, node: str, raw: dict[str, Any]) -> StageSpec:
    if isinstance(raw.get("needs"), str):
        raw = {**raw, "needs": [raw["needs"]]}
    if not re.fullmatch(r"[a-z][a-z0-9_]*", node):
        problem = f"stage name {node!r}: use lowercase letters, digits, and _"
        raise document.error(("stages", node), problem)
    cleaned = {key: value for key, value in raw.items() if value is not None}
    spec: StageSpec = parse(document, StageSpec, cleaned, ("stages", node))
    return spec
