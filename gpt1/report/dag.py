"""A workflow as a picture: boxes in columns by depth.

Jobs of one stage (`finetune[task=a]`, `finetune[task=b]`) are one box. An arrow that passes a
column has a narrow lane of its own there, below the boxes, so that it crosses none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from html import escape
from typing import Any

from gpt1.format import span
from gpt1.report.run_cost import total
from gpt1.report.sources import Source

Cells = Sequence[tuple[str, str, Sequence[str]]]
"""(job, state, jobs it needs); a job comes after those it needs."""

COLORS = {  # state: fill in the light, fill in the dark; the worst first
    "failed": ("#ffc9c9", "#7a1f1f"), "running": ("#cfe2ff", "#1d4480"),
    "partial": ("#ffe0b0", "#75480a"), "stopped": ("#ffd6a5", "#7a3e08"),
    "stale": ("#fff1a8", "#635200"), "new": ("#e6e6e6", "#454545"),
    "cached": ("#e3e9f2", "#2f3b4d"), "ran": ("#c9efce", "#1f5f2c"),
    "done": ("#c9efce", "#1f5f2c"),
}  # fmt: skip
OTHER = ("#e0d8f5", "#453570")  # a state that is not listed
WIDTH, GAP_X, GAP_Y, MARGIN = 114, 24, 16, 8  # of a box and around it, in pixels
LANE, LINE = 9, 16  # of an arrow that passes a column; of text


@dataclass
class Box:
    """A stage in the picture: its jobs' states, the stages it needs (without those implied by
    others) and its column.
    """

    stage: str
    states: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    depth: int = 0

    @property
    def title(self) -> str:
        return self.stage if len(self.states) == 1 else f"{self.stage} x{len(self.states)}"

    @property
    def state(self) -> str:
        """The worst state of its jobs."""
        order = list(COLORS)
        return min(self.states, key=lambda state: order.index(state) if state in order else -1)

    @property
    def caption(self) -> str:
        """`done`, or `3 done, 1 failed`."""
        counts = Counter(self.states)
        if len(counts) == 1:
            return self.states[0]
        return ", ".join(f"{number} {state}" for state, number in counts.items())


def stage_of(cell: str) -> str:
    """The name of a job without its place in a matrix."""
    return cell.partition("[")[0]


def boxes(cells: Cells) -> list[Box]:
    """The jobs, grouped by stage; in an order in which every box comes after those it needs."""
    found: dict[str, Box] = {}
    above: dict[str, set[str]] = {}  # everything a stage needs, directly or not
    for cell, state, needs in cells:
        box = found.setdefault(stage_of(cell), Box(stage_of(cell)))
        box.states.append(state)
        direct = {stage_of(need) for need in needs} - {box.stage}
        box.needs = sorted({*box.needs, *direct})
        above.setdefault(box.stage, set()).update(direct, *(above[need] for need in direct))
    for box in found.values():
        implied = set[str]().union(*(above[need] for need in box.needs))
        box.needs = [need for need in box.needs if need not in implied]
        box.depth = 1 + max((found[need].depth for need in box.needs), default=-1)
    return sorted(found.values(), key=lambda box: box.depth)


def as_svg(cells: Cells, notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """Boxes colored by state, in the reader's light or dark scheme.

    `notes`: for a stage, lines under its title and state.
    """
    found, notes = boxes(cells), notes or {}
    height = LINE * (2 + max(map(len, notes.values()), default=0)) + 12
    middles, bottom = _middles(found, height)
    width = _left(1 + max((box.depth for box in found), default=0)) - GAP_X + MARGIN
    depths = {box.stage: box.depth for box in found}
    arrows = (
        _arrow([middles[need, depth] for depth in range(depths[need], box.depth)]
               + [middles[box.stage, box.depth]], depths[need])
        for box in found
        for need in box.needs
    )
    drawn = (_box(box, middles[box.stage, box.depth], height, notes.get(box.stage, ()))
             for box in found)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="dag" viewBox="0 0 {width:g} {bottom:g}"'
        f' width="{width:g}" height="{bottom:g}" role="img">',
        "<title>The stages of the workflow and their states</title>",
        f"<style>{_styles(sorted({box.state for box in found}))}</style>", *arrows, *drawn,
        "</svg>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _middles(
    found: Sequence[Box], height: float
) -> tuple[dict[tuple[str, int], float], float]:
    """The height of the middle of each box and lane by (stage, column), and the picture's height.

    A column has its boxes, and below them the lanes of the stages whose arrows pass it.
    """
    last = {need: box.depth for box in found for need in box.needs}  # boxes come by depth
    columns: dict[int, dict[str, float]] = {}
    for box in found:
        columns.setdefault(box.depth, {})[box.stage] = height + GAP_Y
    for box in found:
        for depth in range(box.depth + 1, last.get(box.stage, 0)):
            columns[depth][box.stage] = LANE
    tallest = max((sum(column.values()) for column in columns.values()), default=0)
    middles = {}
    for depth, column in columns.items():
        top = MARGIN + (tallest - sum(column.values())) / 2
        for stage, room in column.items():
            middles[stage, depth] = top + (height if room > LANE else LANE) / 2
            top += room
    return middles, 2 * MARGIN + tallest - GAP_Y + LANE


def _left(depth: int) -> float:
    return MARGIN + depth * (WIDTH + GAP_X)


def css(state: str) -> str:
    """The class of a state."""
    return "s-" + "".join(letter if letter.isalnum() else "-" for letter in state)


def _styles(states: Sequence[str]) -> str:
    """Every rule begins with the picture's class: in a page the styles of one picture reach all
    others.
    """
    light, dark = (
        "".join(f".dag .{css(state)} rect{{fill:{COLORS.get(state, OTHER)[scheme]}}}"
                for state in states)
        for scheme in (0, 1)
    )
    return (
        ".dag text{font:13px system-ui,sans-serif;text-anchor:middle;fill:#111}.dag"
        " text.small{font-size:11px}.dag rect{stroke:#777}.dag"
        f" path{{fill:none;stroke:#888;stroke-width:1.2}}{light}@media screen and"
        f" (prefers-color-scheme:dark){{.dag text{{fill:#f2f2f2}}{dark}}}"
    )


def _arrow(heights: Sequence[float], depth: int) -> str:
    """From the box in column `depth` to that in the last, straight through the columns between."""
    y, path = heights[0], f"M{_left(depth) + WIDTH:g} {heights[0]:g}"
    for n, to in enumerate(heights[1:], 1):
        x, left = _left(depth + n - 1) + WIDTH, _left(depth + n)
        path += f"C{x + GAP_X / 2:g} {y:g} {left - GAP_X / 2:g} {to:g} {left:g} {to:g}"
        path += f"h{WIDTH}" if n < len(heights) - 1 else ""
        y = to
    return f'<path d="{path}"/>'


def _box(box: Box, middle: float, height: float, notes: Sequence[str]) -> str:
    x, y = _left(box.depth), middle - height / 2
    center, top = x + WIDTH / 2, middle - LINE * (2 + len(notes)) / 2 + 12
    small = "".join(
        f'<text class="small" x="{center:g}" y="{top + LINE * n:g}">{escape(line)}</text>'
        for n, line in enumerate((box.caption, *notes), 1)
    )
    return (
        f'<g class="{css(box.state)}"><rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{height:g}"'
        f' rx="7"/><text x="{center:g}" y="{top:g}">{escape(box.title)}</text>{small}</g>'
    )


def run_picture(sources: Sequence[Source], cost: Mapping[str, Any]) -> str:
    """The workflow as it was run: ran or cached, seconds, core or GPU time of each stage.

    Empty where no job says its inputs.
    """
    if not any(source.making.get("inputs") for source in sources):
        return ""
    rows = {row["cell"]: row for row in cost["cells"]}
    order, groups = _in_order(sources), dict[str, list[Mapping[str, Any]]]()
    for cell, _ in order:
        groups.setdefault(stage_of(cell), []).append(rows[cell])
    cells = [(cell, "ran" if rows[cell]["made"] else "cached", needs) for cell, needs in order]
    return as_svg(cells, {stage: _notes(group) for stage, group in groups.items()})


def _notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The time, and that of all cores or GPUs where it is known to be another."""
    seconds, cores, gpus = (total(rows, f"{of}seconds") for of in ("", "core_", "gpu_"))
    if gpus:
        return [span(seconds), f"GPU time {span(gpus)}"]
    return [span(seconds)] + ([f"core time {span(cores)}"] if cores != seconds else [])


def _in_order(sources: Iterable[Source]) -> list[tuple[str, list[str]]]:
    """Each job with the jobs it needs, after these; what the report does not read is left out."""
    inputs = {one.cell: sorted(one.making.get("inputs") or {}) for one in sources}
    needs = {cell: [need for need in some if need in inputs] for cell, some in inputs.items()}
    return [(cell, needs[cell]) for cell in TopologicalSorter(needs).static_order()]
