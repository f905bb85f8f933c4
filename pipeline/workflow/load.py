"""workflow.yaml: read, overlaid by a profile and `--set`, validated, and expanded into cells.

Nothing here needs torch, Ray or MLflow; stages are imported late, by the name after `uses:`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpt1.errors import UserError
from gpt1.model.config import variant_module
from gpt1.report.dag import stage_of
from gpt1.tasks.registry import task_named
from pipeline.workflow.expand import Cell, Request, Workflow, expand, ordered
from pipeline.workflow.imports import is_dotted
from pipeline.workflow.schema import SPEC_KEYS, ProfileSpec, StageSpec, as_list, parse
from pipeline.workflow.user_code import find_user_code, install
from pipeline.workflow.yaml_source import ConfigError, KeyPath, YamlDocument, load, nearest, scalar

KEYS = {"name", "tasks", "stages", "profiles"}


def read(
    file: Path, profile: str | None = None, assignments: Sequence[str] = (),
    asked: Sequence[str] = (), start: str | None = None,
) -> Workflow:
    """Read and validate a workflow, and let this process import the modules of the user's that it
    names.

    `asked`: the stages and jobs that a command names; `start`: the one that it names with all that
    follow. These and what they need must be valid; any other stage that is not is skipped, with
    all that follow it. Without both, every stage must be valid.

    UserError for anything that is wrong; it names the file and line, or the `--set`.
    """

    def problem_of_first(count: int) -> str | None:
        """What is wrong when only the first assignments are made."""
        try:
            _read(file, profile, assignments[:count], asked, start)
        except UserError as found:
            return found.problem if isinstance(found, ConfigError) else None
        return None

    try:
        return _read(file, profile, assignments, asked, start)
    except ConfigError as error:
        count = len(assignments)
        while count and problem_of_first(count - 1) == error.problem:
            count -= 1
        if not count:
            raise
        # Without this assignment the problem is not there, whatever key it shows at.
        name = assignments[count - 1].partition("=")[0].strip()
        own = r"^stages\." + re.escape(name).replace(r"\.", r"\.(with\.)?", 1) + ": "
        raise UserError(f"--set {name}: {re.sub(own, '', error.problem)}") from None


def _read(
    file: Path, profile: str | None, assignments: Sequence[str], asked: Sequence[str],
    start: str | None,
) -> Workflow:
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
    own_tasks = _overlay_profile(document, merged, data.get("profiles") or {}, profile)
    given = [_assignment(text, merged) for text in assignments]
    tasks, excluded = _tasks(document, [data.get("tasks"), own_tasks], given)
    for path, value in given:
        if path[0] == "stages":
            _assign(merged[str(path[1])], path[2:], value)
    specs = {node: _stage_spec(document, node, spec) for node, spec in merged.items()}
    order = ordered(document, specs)
    code = find_user_code(file, _modules(document, specs, tasks))
    install(code)
    with document.blame(("tasks",)):
        for task in tasks:
            task_named(task)
    wanted, assigned = _wanted(specs, order, asked, start), [path for path, _ in given]
    cells = expand(document, specs, order, Request(wanted, assigned, tasks, excluded))
    _check_tasks(document, specs, cells, tasks, [*asked, *([start] if start else [])])
    name = str(data.get("name", "gpt1"))
    return Workflow(name, profile, file, cells, tuple(assignments), code)


def _tasks(
    document: YamlDocument, lists: Sequence[Any], given: Sequence[tuple[KeyPath, Any]]
) -> tuple[Sequence[str], Sequence[str]]:
    """The tasks to run, and the excluded ones: all others of the file's lists, but for those that
    `--set STAGE.task` names.
    """
    written = [one for one in lists if one]
    chosen = [as_list(value) for path, value in given if path == ("tasks",)]
    if chosen and not written:
        raise document.error((), "found no `tasks:`; add it, and `task: ${tasks}` in a matrix")
    found = [parse(document, ProfileSpec, {"tasks": one}, ()).tasks for one in written + chosen]
    tasks = found[-1] if found else ()
    named = [task for path, value in given if path[-1] == "task" for task in as_list(value)]
    return tasks, [task for one in found for task in one if task not in (*tasks, *named)]


def _check_tasks(
    document: YamlDocument, specs: Mapping[str, StageSpec], cells: Mapping[str, Cell],
    tasks: Sequence[str], asked: Sequence[str],
) -> None:
    """UserError for a task that only one of several stages has a job for, the one that reads its
    data; of a command about some stages, for one of these without jobs.
    """
    jobs = {(cell.node, getattr(cell.settings, "task", None)) for cell in cells.values()}
    for node in map(stage_of, asked):
        if node in specs and node not in {having for having, _ in jobs}:
            problem = f"{node} has no jobs for the tasks {', '.join(tasks)}"
            raise document.error(("stages", node), f"{problem}; add others to `tasks:`")
    takers = [node for node, spec in specs.items() if "task" in {*spec.with_, *spec.matrix}]
    if asked or len(takers) < 2:
        return
    for task in tasks:
        having = [node for node in takers if (node, task) in jobs]
        if len(having) < 2:
            found = f"jobs only in {having[0]}" if having else "no jobs"
            problem = f"task {task!r} has {found}"
            advice = f"remove it, or add it to another matrix of {', '.join(takers)}"
            raise document.error(("tasks",), f"{problem}; {advice}")


def _wanted(
    specs: Mapping[str, StageSpec], order: Sequence[str], asked: Sequence[str], start: str | None
) -> set[str]:
    """The stages that a command is about, and those that these need."""
    after = {stage_of(start)} if start else set()
    for node in order:
        if after & {*specs[node].needs}:
            after.add(node)
    wanted = after | {stage_of(name) for name in asked}
    for node in reversed(order):
        if node in wanted:
            wanted.update(specs[node].needs)
    return wanted or set(specs)


def _modules(
    document: YamlDocument, specs: Mapping[str, StageSpec], tasks: Sequence[str]
) -> dict[str, str]:
    """The modules that stages, tasks and variants of the model are named by -> where."""
    found = {task: document.where(("tasks",)) for task in tasks if is_dotted(task)}
    for node, spec in specs.items():
        named: list[tuple[KeyPath, Any]] = [(("uses",), spec.uses)]
        for path, settings in [(("with",), spec.with_), *spec.matrices]:
            # `--set` may give a list.
            named += [((*path, "task"), task) for task in as_list(settings.get("task"))]
            kinds = as_list(settings.get("model"))
            named += [((*path, "model"), variant_module(kind)) for kind in kinds]
        for path, name in named:
            if name and (path[-1] == "model" or is_dotted(name)):
                found.setdefault(name, document.where(("stages", node, *path)))
    return found


def _overlay_profile(
    document: YamlDocument, merged: dict[str, dict[str, Any]], profiles: Any, profile: str | None
) -> Sequence[str] | None:
    """Lay a profile's stages over those of `merged`; returns its list of tasks."""
    if not isinstance(profiles, dict):
        raise document.error(("profiles",), "`profiles:` must map names to profiles")
    parsed: dict[str, ProfileSpec] = {}
    for name, raw in profiles.items():
        parsed[name] = parse(document, ProfileSpec, raw or {}, ("profiles", name))
        for node in parsed[name].stages:
            if node not in merged:
                problem = f"unknown stage {node!r}; {nearest(node, merged)}"
                raise document.error(("profiles", name, "stages", node), problem)
    if profile is None:
        return None
    if profile not in profiles:
        raise document.error((), f"unknown profile {profile!r}; {nearest(profile, profiles)}")
    for node, overlay in parsed[profile].stages.items():
        _merge(merged[node], overlay or {})
        _adopt_lines(document, ("profiles", profile, "stages", node), ("stages", node))
    if parsed[profile].tasks:
        document.lines[("tasks",)] = document.lines["profiles", profile, "tasks"]
    return parsed[profile].tasks


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


def _assignment(text: str, stages: Mapping[str, Any]) -> tuple[KeyPath, Any]:
    """The key that a `--set` gives, and its value. UserError for what is neither a key of a stage
    nor `tasks`.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    node, _, key = name.partition(".")
    if not equals or not (key or name == "tasks"):
        expected = "stage.key=value, such as pretrain.lr=1e-3, or tasks=[cola,rte]"
        raise UserError(f"--set {text!r}: expected {expected}")
    if key and node not in stages:
        raise UserError(f"--set {text!r}: unknown stage {node!r}; {nearest(node, stages)}")
    keys = key.split(".")
    keys = keys if keys[0] in SPEC_KEYS else ["with", *keys]
    return ("stages", node, *keys) if key else (name,), scalar(value, f"--set {name}")


def _assign(place: dict[Any, Any], path: KeyPath, value: Any) -> None:
    """Set the value of a key, and leave what the document has as it is."""
    for step in path[:-1]:
        inner = place.get(step)
        place[step] = dict(inner) if isinstance(inner, dict) else {}
        place = place[step]
    place[path[-1]] = value


def _stage_spec(document: YamlDocument, node: str, raw: dict[str, Any]) -> StageSpec:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", node):
        problem = f"stage name {node!r}: use lowercase letters, digits, and _"
        raise document.error(("stages", node), problem)
    cleaned = {key: value for key, value in raw.items() if value is not None}
    spec: StageSpec = parse(document, StageSpec, cleaned, ("stages", node))
    return spec
