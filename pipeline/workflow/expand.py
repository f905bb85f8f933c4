"""The cells of a workflow: every stage, and every combination of its matrix, with validated
settings and inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gpt1.errors import UserError
from pipeline.workflow.schema import StageSpec, debug_keys, flatten_debug, parse
from pipeline.workflow.stages import kinds_of, load_stage
from pipeline.workflow.user_code import NONE, UserCode
from pipeline.workflow.yaml_source import KeyPath, YamlDocument, nearest
from stages.contract import Resources, Settings, Stage


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

    def node_cells(self, node: str) -> list[Cell]:
        return [cell for cell in self.cells.values() if cell.node == node]

    @property
    def nodes(self) -> list[str]:
        return list(dict.fromkeys(cell.node for cell in self.cells.values()))


def ordered(document: YamlDocument, specs: Mapping[str, StageSpec]) -> list[str]:
    """The nodes, needed ones first. UserError for an unknown need or a cycle."""
    order: list[str] = []

    def visit(node: str, trail: tuple[str, ...]) -> None:
        if node in trail:
            cycle = " -> ".join([*trail[trail.index(node) :], node])
            raise UserError(
                f"{document.where(('stages', node, 'needs'))}: cycle in `needs:`: {cycle};"
                " remove one of these needs"
            )
        if node in order:
            return
        for need in specs[node].needs:
            if need not in specs:
                path = ("stages", node, "needs")
                raise UserError(
                    f"{document.where(path)}: stage {node!r} needs unknown stage {need!r};"
                    f" {nearest(need, specs)}"
                )
            visit(need, (*trail, node))
        order.append(node)

    for node in specs:
        visit(node, ())
    return order


def expand(
    document: YamlDocument, specs: Mapping[str, StageSpec], order: Sequence[str]
) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    of_node: dict[str, list[Cell]] = {}
    for node in order:
        spec = specs[node]
        kind = spec.uses or node
        try:
            stage = load_stage(kind)
        except UserError as error:
            path = ("stages", node, "uses") if spec.uses else ("stages", node)
            raise UserError(f"{document.where(path)}: {error}") from None
        _check_needs(document, node, stage, specs)
        if spec.resources.min_workers is not None and not stage.gang_scheduled:
            where = document.where(("stages", node, "resources"))
            raise UserError(
                f"{where}: {node}: min_workers is only for stages that train on several ranks;"
                " remove it"
            )
        combinations = _combinations(document, node, spec)
        completed = stage.complete(_settings(document, node, stage, spec, combinations))
        offered = _offered(stage, [cell for need in spec.needs for cell in of_node[need]])
        resources = Resources(**spec.resources.model_dump())
        of_node[node] = []
        for axes, settings in zip(combinations, completed, strict=True):
            cell_id = (
                node
                if not axes
                else f"{node}[{','.join(f'{key}={value}' for key, value in axes.items())}]"
            )
            inputs = _inputs(stage, settings, offered)
            upstream = {kind_: [one.settings for one in found] for kind_, found in inputs.items()}
            try:
                stage.check(settings, upstream)
            except UserError as error:
                raise UserError(
                    f"{document.where(('stages', node, 'with'))}: {cell_id}: {error}"
                ) from None
            try:
                stage.check_resources(settings, resources)
            except UserError as error:
                raise UserError(
                    f"{document.where(('stages', node, 'resources'))}: {cell_id}: {error}"
                ) from None
            ids = {kind_: tuple(one.id for one in found) for kind_, found in inputs.items()}
            cells[cell_id] = Cell(
                cell_id, node, kind, stage, settings, resources, spec.retries, spec.timeout,
                spec.wait, axes, ids,
            )  # fmt: skip
            of_node[node].append(cells[cell_id])
    return cells


def _check_needs(
    document: YamlDocument, node: str, stage: Stage, specs: Mapping[str, StageSpec]
) -> None:
    where = document.where(("stages", node, "needs"))
    given = [kinds_of(specs[need].uses or need) for need in specs[node].needs]
    for kind in stage.requires:
        if not any(kind in kinds for kinds in given):
            raise UserError(
                f"{where}: stage {node!r} requires a stage that uses {kind!r}; add one to `needs:`"
            )
    if "*" in stage.optional_inputs:
        return
    for kinds, need in zip(given, specs[node].needs, strict=True):
        if not set(kinds) & {*stage.requires, *stage.optional_inputs}:
            takes = ", ".join((*stage.requires, *stage.optional_inputs)) or "nothing"
            raise UserError(
                f"{where}: stage {node!r} does not take {need!r} as input; it takes: {takes}"
            )


def _combinations(document: YamlDocument, node: str, spec: StageSpec) -> list[dict[str, Any]]:
    """Every combination of the matrix, then those of the further ones; a combination that is there
    already is not doubled.

    The axes of each are in the order of the matrix, in whatever order a further one names them.
    """
    found: dict[str, dict[str, Any]] = {}
    matrices = [
        (("matrix",), spec.matrix),
        *((("include", number), one) for number, one in enumerate(spec.include)),
    ]
    for name, matrix in matrices:
        _check_axes(document, node, spec, ("stages", node, *name), matrix)
        for values in itertools.product(*matrix.values()):
            value_of = dict(zip(matrix, values, strict=True))
            axes = {axis: value_of[axis] for axis in spec.matrix}
            found.setdefault(repr(sorted(axes.items())), axes)
    return list(found.values())


def _check_axes(
    document: YamlDocument, node: str, spec: StageSpec, path: KeyPath,
    matrix: Mapping[str, Sequence[Any]],
) -> None:
    for axis, values in matrix.items():
        where, name = document.where((*path, axis)), ".".join(map(str, (*path, axis)))
        if not values:
            raise UserError(f"{where}: {name}: a matrix axis needs at least one value; add one")
        if len({repr(value) for value in values}) < len(values):
            raise UserError(f"{where}: {name}: a value appears twice in {list(values)}; keep one")
        if axis in spec.with_:
            raise UserError(
                f"{where}: stages.{node}: {axis!r} is both in `with:` and in `{path[2]}:`;"
                " keep one"
            )
    if path[2] == "include" and set(matrix) != set(spec.matrix):
        raise UserError(
            f"{document.where(path)}: {'.'.join(map(str, path))}: found axes"
            f" {', '.join(matrix) or 'none'}, expected those of `matrix:`,"
            f" {', '.join(spec.matrix) or 'none'}; put a setting that all jobs share in `with:`"
        )


def _settings(
    document: YamlDocument, node: str, stage: Stage, spec: StageSpec,
    combinations: Sequence[Mapping[str, Any]],
) -> list[Settings]:
    """The settings of each combination."""
    path, model = ("stages", node, "with"), stage.settings_model
    for axis in combinations[0]:  # all have the same
        where = document.where(("stages", node, "matrix", axis))
        if axis in debug_keys(model):
            raise UserError(
                f"{where}: stages.{node}.matrix.{axis}: found a debug setting, expected a setting"
                f" of `with:`; give it one value, --set {node}.debug.{axis}=VALUE"
            )
        if axis not in model.model_fields:
            raise UserError(
                f"{where}: unknown setting {axis!r}; {nearest(axis, model.model_fields)}"
            )
    values = flatten_debug(document, model, spec.with_, path)
    return [
        cast(Settings, parse(document, model, {**values, **axes}, path)) for axes in combinations
    ]


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


def _inputs(
    stage: Stage, settings: Settings, offered: Mapping[str, Sequence[Cell]]
) -> dict[str, list[Cell]]:
    """Those of the offered cells that a cell with `settings` wants."""
    wanted = {
        kind: [cell for cell in cells if stage.wants_input(settings, kind, cell.settings)]
        for kind, cells in offered.items()
    }
    return {kind: cells for kind, cells in wanted.items() if cells}
