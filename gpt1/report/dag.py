"""A workflow as a picture: boxes in columns by depth.

Cells of one stage (`finetune[task=a]`, `finetune[task=b]`) are one box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

Cells = Sequence[tuple[str, str, Sequence[str]]]
"""(cell, state, cells it needs); a cell comes after those it needs."""

COLOURS = {  # state: fill in the light, fill in the dark; the worst first
    "failed": ("#ffc9c9", "#7a1f1f"), "running": ("#cfe2ff", "#1d4480"),
    "partial": ("#ffe0b0", "#75480a"), "stopped": ("#ffd6a5", "#7a3e08"),
    "stale": ("#fff1a8", "#635200"), "new": ("#e6e6e6", "#454545"),
    "cached": ("#e3e9f2", "#2f3b4d"), "ran": ("#c9efce", "#1f5f2c"),
    "done": ("#c9efce", "#1f5f2c"),
}  # fmt: skip
OTHER = ("#e0d8f5", "#453570")  # a state that is not listed
WIDTH, GAP_X, GAP_Y, MARGIN = 114, 20, 16, 8  # of a box and around it, in pixels
LINE = 16  # of text, in pixels


@dataclass
class Box:
    """A stage in the picture: its cells' states, the stages it needs (without those implied by
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
        """The worst state of its cells."""
        order = list(COLOURS)
        return min(self.states, key=lambda state: order.index(state) if state in order else -1)

    @property
    def caption(self) -> str:
        """`done`, or `3 done, 1 failed`."""
        counts = Counter(self.states)
        return (
            self.states[0]
            if len(counts) == 1
            else ", ".join(f"{number} {state}" for state, number in counts.items())
        )


def stage_of(cell: str) -> str:
    """The name of a cell without its place in a matrix."""
    return cell.partition("[")[0]


def boxes(cells: Cells) -> list[Box]:
    """The cells, grouped by stage; in an order in which every box comes after those it needs."""
    found: dict[str, Box] = {}
    above: dict[str, set[str]] = {}  # everything a stage needs, directly or not
    for cell, state, needs in cells:
        box = found.setdefault(stage_of(cell), Box(stage_of(cell)))
        box.states.append(state)
        direct = {stage_of(need) for need in needs} - {box.stage}
        box.needs = sorted({*box.needs, *direct})
        above.setdefault(box.stage, set()).update(direct, *(above[need] for need in direct))
    for box in found.values():
        box.needs = [
            need for need in box.needs if not any(need in above[other] for other in box.needs)
        ]
        box.depth = 1 + max((found[need].depth for need in box.needs), default=-1)
    return sorted(found.values(), key=lambda box: box.depth)


def as_svg(cells: Cells, notes: Mapping[str, Sequence[str]] | None = None) -> str:
    """Boxes coloured by state, in the reader's light or dark scheme.

    `notes`: for a stage, lines under its title and state.
    """
    found, notes = boxes(cells), notes or {}
    height = LINE * (2 + max((len(lines) for lines in notes.values()), default=0)) + 12
    places, size = _places(found, height)
    states = sorted({box.state for box in found})
    depths = {box.stage: box.depth for box in found}
    edges = (
        _edge(
            [
                *(places[need, depth] for depth in range(depths[need], box.depth)),
                places[box.stage, box.depth],
            ],
            height,
        )
        for box in found
        for need in box.needs
    )
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="dag" viewBox="0 0 {size[0]:g}'
            f' {size[1]:g}" width="{size[0]:g}" height="{size[1]:g}" role="img">'
        ),
        "<title>The stages of the workflow and their states</title>",
        f"<style>{_styles(states)}</style>",
        *edges,
        *(
            _box(box, *places[box.stage, box.depth], height, notes.get(box.stage, ()))
            for box in found
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _places(
    found: Sequence[Box], height: float
) -> tuple[dict[tuple[str, int], tuple[float, float]], tuple[float, float]]:
    """Left upper corners by (stage, column), and the picture's size.

    An arrow that passes a column has a place of its own there, so that it crosses no box.
    """
    columns: dict[int, list[str]] = {box.depth: [] for box in found}
    for box in found:
        columns[box.depth].append(box.stage)
    for box in found:
        for depth in range(
            box.depth + 1,
            max((other.depth for other in found if box.stage in other.needs), default=0),
        ):
            columns[depth].append(box.stage)
    tallest = max(map(len, columns.values()), default=1)
    places: dict[tuple[str, int], tuple[float, float]] = {
        (stage, depth): (
            MARGIN + depth * (WIDTH + GAP_X),
            MARGIN + (row + (tallest - len(column)) / 2) * (height + GAP_Y),
        )
        for depth, column in columns.items()
        for row, stage in enumerate(column)
    }
    return places, (
        2 * MARGIN + len(columns) * (WIDTH + GAP_X) - GAP_X,
        2 * MARGIN + tallest * (height + GAP_Y) - GAP_Y,
    )


def css(state: str) -> str:
    """The class of a state."""
    return "s-" + "".join(letter if letter.isalnum() else "-" for letter in state)


def _styles(states: Sequence[str]) -> str:
    """Every rule begins with the picture's class: in a page the styles of one picture reach all
    others.
    """
    light, dark = (
        "".join(
            f".dag .{css(state)} rect{{fill:{COLOURS.get(state, OTHER)[scheme]}}}"
            for state in states
        )
        for scheme in (0, 1)
    )
    return (
        ".dag text{font:13px system-ui,sans-serif;text-anchor:middle;fill:#111}.dag"
        " text.small{font-size:11px}.dag rect{stroke:#777}.dag"
        f" path{{fill:none;stroke:#888;stroke-width:1.5}}{light}@media screen and"
        f" (prefers-color-scheme:dark){{.dag text{{fill:#f2f2f2}}{dark}}}"
    )


def _edge(way: Sequence[tuple[float, float]], height: float) -> str:
    """From the first place to the last, straight through those between."""
    x, y = way[0][0] + WIDTH, way[0][1] + height / 2
    path, bend = f"M{x:g} {y:g}", GAP_X / 2
    for index, (left, top) in enumerate(way[1:], 2):
        middle = top + height / 2
        path += f"C{x + bend:g} {y:g} {left - bend:g} {middle:g} {left:g} {middle:g}" + (
            f"h{WIDTH}" if index < len(way) else ""
        )
        x, y = left + WIDTH, middle
    return f'<path d="{path}"/>'


def _box(box: Box, x: float, y: float, height: float, notes: Sequence[str]) -> str:
    middle = x + WIDTH / 2
    top = y + (height - LINE * (2 + len(notes))) / 2 + 12
    lines = (box.caption, *notes)
    small = "".join(
        f'<text class="small" x="{middle:g}" y="{top + LINE * (n + 1):g}">{escape(line)}</text>'
        for n, line in enumerate(lines)
    )
    return (
        f'<g class="{css(box.state)}"><rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{height:g}"'
        f' rx="7"/><text x="{middle:g}" y="{top:g}">{escape(box.title)}</text>{small}</g>'
    )
