"""The cells of a workflow: every stage, and every combination of its matrix, with validated
settings and inputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from gpt1.errors import UserError
from gpt1.settings import debug_keys
from pipeline.workflow.schema import Matrix, StageSpec, flatten_debug, parse
from pipeline.workflow.stages import kinds_of, load_stage
from pipeline.workflow.user_code import NONE, UserCode
from pipeline.workflow.yaml_source import TASKS, KeyPath, YamlDocument, nearest
from stages.contract import Resources, Settings, Stage

MOST_JOBS = 10_000  # of a matrix: more are a slip of its axes, and would take all memory


@dataclass(frozen=True)
class Cell:
    """One unit of work: a stage, or one combination of its matrix."""

    id: str
    node: str
    uses: str
    stage: Stage
    settings: Settings
    resources: Resources
    retries: int = 0
    timeout: float | None = None
    wait: float | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Cell ids by kind of stage."""

    @property
    def needs(self) -> list[str]:
        """The ids of all cells it needs, each once (one may stand for two kinds)."""
        return list(dict.fromkeys(need for ids in self.inputs.values() for need in ids))


@dataclass(frozen=True)
class Workflow:
    """A validated workflow: its cells in an order in which every cell comes after those it
    needs.
    """

    name: str
    profile: str | None
    file: Path
    cells: Mapping[str, Cell]
    assignments: tuple[str, ...] = ()
    """Those of `--set`."""
    user_code: UserCode = NONE

    @property
    def nodes(self) -> list[str]:
        return list(dict.fromkeys(cell.node for cell in self.cells.values()))


@dataclass(frozen=True)
class Request:
    """What a command asks for."""

    wanted: Collection[str]
    """Stages that must be valid; any other that is not is skipped, with those that need it."""
    assigned: Collection[KeyPath]
    """The keys that `--set` gives."""
    tasks: Sequence[str]
    """The tasks of `${tasks}`."""
    excluded: Sequence[str]
    """Tasks without jobs."""


def ordered(document: YamlDocument, specs: Mapping[str, StageSpec]) -> list[str]:
    """The nodes, needed ones first. UserError for an unknown need or a cycle."""
    order: dict[str, None] = {}
    for first in specs:
        # From `first` down to the node that is looked at, each with the needs that are left.
        trail = {} if first in order else {first: iter(specs[first].needs)}
        while trail:
            node = next(reversed(trail))
            need = next(trail[node], None)
            if need is None:
                order[node] = None
                del trail[node]
            elif need not in specs:
                problem = f"stage {node!r} needs unknown stage {need!r}; {nearest(need, specs)}"
                raise document.error(("stages", node, "needs"), problem)
            elif need in trail:
                cycle = " -> ".join([*list(trail)[list(trail).index(need) :], need])
                problem = f"cycle in `needs:`: {cycle}; remove one of these needs"
                raise document.error(("stages", need, "needs"), problem)
            elif need not in order:
                trail[need] = iter(specs[need].needs)
    return list(order)


def expand(
    document: YamlDocument, specs: Mapping[str, StageSpec], order: Sequence[str], request: Request
) -> dict[str, Cell]:
    """The cells by id. A stage that has none of the tasks has no cells, and neither has one that
    requires it.

    UserError for what is wrong with a stage that is wanted.
    """
    of_node: dict[str, list[Cell]] = {}
    for node in order:
        if not of_node.keys() >= {*specs[node].needs}:
            continue  # it needs a stage that was skipped
        try:
            of_node[node] = _cells(document, node, specs, of_node, request)
        except UserError:
            if node in request.wanted:
                raise
    return {cell.id: cell for cells in of_node.values() for cell in cells}


def _cells(
    document: YamlDocument, node: str, specs: Mapping[str, StageSpec],
    of_node: Mapping[str, Sequence[Cell]], request: Request,
) -> list[Cell]:
    """The cells of one stage, after those of the stages that it needs."""
    spec, path = specs[node], ("stages", node)
    kind = spec.uses or node
    with document.blame((*path, "uses") if spec.uses else path):
        stage = load_stage(kind)
    _check_needs(document, node, stage, specs)
    if spec.resources.min_workers is not None and not stage.gang_scheduled:
        problem = "min_workers is only for stages that train on several ranks; remove it"
        raise document.error((*path, "resources"), f"{node}: {problem}")
    spec = _with_axes(node, spec, stage, request)
    combinations = _combinations(document, node, spec, stage, request)
    offered = _offered(stage, [cell for need in spec.needs for cell in of_node[need]])
    if not combinations or not offered.keys() >= {*stage.requires}:
        return []
    completed = stage.complete(_settings(document, node, stage, spec, combinations))
    cells = []
    for axes, settings in zip(combinations, completed, strict=True):
        named = ",".join(f"{key}={value}" for key, value in axes.items())
        cell_id = f"{node}[{named}]" if axes else node
        wanted = {
            kind_: [one for one in found if stage.wants_input(settings, kind_, one.settings)]
            for kind_, found in offered.items()
        }
        inputs = {kind_: found for kind_, found in wanted.items() if found}
        upstream = {kind_: [one.settings for one in found] for kind_, found in inputs.items()}
        with document.blame((*path, "with"), f"{cell_id}: "):
            stage.check(settings, upstream)
        with document.blame((*path, "resources"), f"{cell_id}: "):
            stage.check_resources(settings, spec.resources)
        ids = {kind_: tuple(one.id for one in found) for kind_, found in inputs.items()}
        cells.append(Cell(
            cell_id, node, kind, stage, settings, spec.resources, spec.retries, spec.timeout,
            spec.wait, axes, ids,
        ))  # fmt: skip
    return cells


def _check_needs(
    document: YamlDocument, node: str, stage: Stage, specs: Mapping[str, StageSpec]
) -> None:
    path = ("stages", node, "needs")
    given = [kinds_of(specs[need].uses or need) for need in specs[node].needs]
    for kind in stage.requires:
        if not any(kind in kinds for kinds in given):
            found = f"stage {node!r} requires a stage that uses {kind!r}"
            raise document.error(path, f"{found}; add one to `needs:`")
    if "*" in stage.optional_inputs:
        return
    for kinds, need in zip(given, specs[node].needs, strict=True):
        if not set(kinds) & {*stage.requires, *stage.optional_inputs}:
            takes = ", ".join((*stage.requires, *stage.optional_inputs)) or "nothing"
            found = f"stage {node!r} does not take {need!r} as input"
            raise document.error(path, f"{found}; it takes: {takes}")


def _with_axes(node: str, spec: StageSpec, stage: Stage, request: Request) -> StageSpec:
    """The entry with what `--set` gives for an axis as its values. A list makes a new axis, unless
    the setting itself is a list.
    """
    for setting, info in stage.settings_model.model_fields.items():
        if setting in spec.with_ and ("stages", node, "with", setting) in request.assigned:
            types = (info.annotation, *get_args(info.annotation))
            kinds = [get_origin(one) or one for one in types]
            takes_list = any(one in (list, tuple, set, frozenset, Sequence) for one in kinds)
            if setting in spec.matrix or (isinstance(spec.with_[setting], list) and not takes_list):
                spec = spec.with_axis(setting)
    return spec


def _combinations(
    document: YamlDocument, node: str, spec: StageSpec, stage: Stage, request: Request
) -> list[dict[str, Any]]:
    """Every combination of the matrix, then those of the further ones; a combination that is there
    already is not doubled, and one of an excluded task is skipped.

    The axes of each are in the order of the matrix, in whatever order a further one names them.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, matrix in spec.matrices:
        path = ("stages", node, *name)
        _check_axes(document, node, spec, path, matrix)
        if TASKS in matrix.get("task", ()):
            if len(matrix["task"]) > 1 or not request.tasks:
                problem = f"{TASKS} must be its only value, and needs a list `tasks:` at the top"
                raise document.error((*path, "task"), f"stages.{node}.matrix.task: {problem}")
            matrix = {**matrix, "task": tuple(filter(stage.supports_task, request.tasks))}
        if (count := math.prod(map(len, matrix.values()))) > MOST_JOBS:
            problem = f"found {count:,} combinations, expected at most {MOST_JOBS:,}"
            raise document.error(path, f"{'.'.join(map(str, path))}: {problem}; give fewer values")
        for values in itertools.product(*matrix.values()):
            value_of = dict(zip(matrix, values, strict=True))
            axes = {axis: value_of[axis] for axis in spec.matrix}
            if axes.get("task", spec.with_.get("task")) not in request.excluded:
                found.setdefault(repr(sorted(axes.items())), axes)
    return list(found.values())


def _check_axes(
    document: YamlDocument, node: str, spec: StageSpec, path: KeyPath, matrix: Matrix
) -> None:
    for axis, values in matrix.items():
        problem, name = "", ".".join(map(str, (*path, axis)))
        if not values:
            problem = f"{name}: a matrix axis needs at least one value; add one"
        elif len({repr(value) for value in values}) < len(values):
            problem = f"{name}: a value appears twice in {list(values)}; keep one"
        elif axis in spec.with_:
            problem = f"stages.{node}: {axis!r} is both in `with:` and in `{path[2]}:`; keep one"
        if problem:
            raise document.error((*path, axis), problem)
    if path[2] == "include" and set(matrix) != set(spec.matrix):
        found, expected = (", ".join(axes) or "none" for axes in (matrix, spec.matrix))
        raise document.error(
            path, f"{'.'.join(map(str, path))}: found axes {found}, expected those of `matrix:`,"
            f" {expected}; put a setting that all jobs share in `with:`",
        )


def _settings(
    document: YamlDocument, node: str, stage: Stage, spec: StageSpec,
    combinations: Sequence[Mapping[str, Any]],
) -> list[Settings]:
    """The settings of each combination."""
    path, model = ("stages", node, "with"), stage.settings_model
    for axis in combinations[0]:  # all have the same
        place = ("stages", node, "matrix", axis)
        if axis in debug_keys(model):
            raise document.error(
                place, f"{'.'.join(place)}: found a debug setting, expected a setting of `with:`;"
                f" give it one value, --set {node}.debug.{axis}=VALUE",
            )
        if axis not in model.model_fields:
            known = nearest(axis, model.model_fields)
            raise document.error(place, f"unknown setting {axis!r}; {known}")
    values = flatten_debug(document, model, spec.with_, path)
    return [parse(document, model, {**values, **axes}, path) for axes in combinations]


def _offered(stage: Stage, upstream: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells that a stage can take, by the kind as which it takes them."""
    taken = {*stage.requires, *stage.optional_inputs}
    kinds = {uses: kinds_of(uses) for uses in {cell.uses for cell in upstream}}
    offered: dict[str, list[Cell]] = {}
    for cell in upstream:
        for kind in kinds[cell.uses]:
            if kind in taken or (kind == cell.uses and "*" in taken):
                offered.setdefault(kind, []).append(cell)
    return dict(sorted(offered.items()))
