"""The workflow as a picture: text, Mermaid, SVG. Cells of one stage (`finetune[task=a]`, `finetune[task=b]`) are one box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

Cells = Sequence[tuple[str, str, Sequence[str]]]
"""(cell, state, cells it needs); a cell comes after those it needs."""

COLOURS = {  # state: fill in the light, fill in the dark; the worst first
    "failed": ("#ffc9c9", "#7a1f1f"), "running": ("#cfe2ff", "#1d4480"), "partial": ("#ffe0b0", "#75480a"),
    "stale": ("#fff1a8", "#635200"), "never run": ("#e6e6e6", "#454545"), "done": ("#c9efce", "#1f5f2c"),
}  # fmt: skip
OTHER = ("#e0d8f5", "#453570")  # a state that is not listed
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 46, 56, 22, 16  # of a box and around it, in pixels


@dataclass
class Box:
    """A stage in the picture: its cells' states, the stages it needs (without those implied by others) and its column."""

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
        return self.states[0] if len(counts) == 1 else ", ".join(f"{number} {state}" for state, number in counts.items())


def boxes(cells: Cells) -> list[Box]:
    """The cells, grouped by stage; in an order in which every box comes after those it needs."""
    found: dict[str, Box] = {}
    above: dict[str, set[str]] = {}  # everything a stage needs, directly or not
    for cell, state, needs in cells:
        box = found.setdefault(_stage(cell), Box(_stage(cell)))
        box.states.append(state)
        direct = {_stage(need) for need in needs} - {box.stage}
        box.needs = sorted({*box.needs, *direct})
        above.setdefault(box.stage, set()).update(direct, *(above[need] for need in direct))
    for box in found.values():
        box.needs = [need for need in box.needs if not any(need in above[other] for other in box.needs)]
        box.depth = 1 + max((found[need].depth for need in box.needs), default=-1)
    return sorted(found.values(), key=lambda box: box.depth)


def as_text(cells: Cells) -> str:
    """A line a stage, indented by its depth, with its state and what it needs."""
    found = boxes(cells)
    left = max((2 * box.depth + len(box.title) for box in found), default=0)
    middle = max((len(box.caption) for box in found), default=0)
    lines = []
    for box in found:
        needs = f"<- {', '.join(box.needs)}" if box.needs else ""
        lines.append(f"{'  ' * box.depth + box.title:<{left}}  {box.caption:<{middle}}  {needs}".rstrip())
    return "\n".join(lines) + "\n"


def as_mermaid(cells: Cells) -> str:
    """A flow chart for Markdown. Text colours are set with the fills, so that it reads in light and dark."""
    found = boxes(cells)
    names = {box.stage: f"n{index}" for index, box in enumerate(found)}
    lines = ["flowchart LR"]
    for box in found:
        title = box.title.replace('"', "#quot;")
        lines.append(f'  {names[box.stage]}["{title}<br/>{box.caption}"]:::{_css(box.state)}')
        lines += [f"  {names[need]} --> {names[box.stage]}" for need in box.needs]
    for state in sorted({box.state for box in found}):
        lines.append(f"  classDef {_css(state)} fill:{COLOURS.get(state, OTHER)[0]},stroke:#666,color:#111")
    return "\n".join(lines) + "\n"


def as_svg(cells: Cells) -> str:
    """Boxes in columns by depth, coloured by state; follows the reader's light or dark scheme."""
    found = boxes(cells)
    columns: dict[int, list[str]] = {box.depth: [] for box in found}
    for box in found:
        columns[box.depth].append(box.stage)
    for box in found:  # an arrow that passes a column has a place of its own there, so that it crosses no box
        for depth in range(box.depth + 1, max((other.depth for other in found if box.stage in other.needs), default=0)):
            columns[depth].append(box.stage)
    tallest = max(map(len, columns.values()), default=1)
    width = 2 * MARGIN + len(columns) * (WIDTH + GAP_X) - GAP_X
    height = 2 * MARGIN + tallest * (HEIGHT + GAP_Y) - GAP_Y
    places = {
        (stage, depth): (MARGIN + depth * (WIDTH + GAP_X), MARGIN + (row + (tallest - len(column)) / 2) * (HEIGHT + GAP_Y))
        for depth, column in columns.items()
        for row, stage in enumerate(column)
    }
    depths = {box.stage: box.depth for box in found}
    states = sorted({box.state for box in found})
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        "<title>The stages of the workflow and their states</title>",
        f"<style>{_styles(states)}</style>",
        *(
            _edge([*(places[need, depth] for depth in range(depths[need], box.depth)), places[box.stage, box.depth]])
            for box in found
            for need in box.needs
        ),
        *(_box(box, *places[box.stage, box.depth]) for box in found),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _stage(cell: str) -> str:
    return cell.partition("[")[0]


def _css(state: str) -> str:
    return "s-" + "".join(letter if letter.isalnum() else "-" for letter in state)


def _styles(states: Sequence[str]) -> str:
    fills = [f".{_css(state)} rect{{fill:{{}}}}" for state in states]
    light = "".join(rule.replace("{}", COLOURS.get(state, OTHER)[0]) for rule, state in zip(fills, states, strict=True))
    dark = "".join(rule.replace("{}", COLOURS.get(state, OTHER)[1]) for rule, state in zip(fills, states, strict=True))
    return (
        "text{font:13px system-ui,sans-serif;text-anchor:middle;fill:#111}text.small{font-size:11px}rect{stroke:#777}"
        f"path{{fill:none;stroke:#888;stroke-width:1.5}}{light}@media(prefers-color-scheme:dark){{text{{fill:#f2f2f2}}{dark}}}"
    )


def _edge(way: Sequence[tuple[float, float]]) -> str:
    """From the first place to the last, straight through those between."""
    x, y = way[0][0] + WIDTH, way[0][1] + HEIGHT / 2
    path, bend = f"M{x:g} {y:g}", GAP_X / 2
    for index, (left, top) in enumerate(way[1:], 2):
        middle = top + HEIGHT / 2
        path += f"C{x + bend:g} {y:g} {left - bend:g} {middle:g} {left:g} {middle:g}" + (f"h{WIDTH}" if index < len(way) else "")
        x, y = left + WIDTH, middle
    return f'<path d="{path}"/>'


def _box(box: Box, x: float, y: float) -> str:
    middle = x + WIDTH / 2
    return (
        f'<g class="{_css(box.state)}"><rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="7"/>'
        f'<text x="{middle:g}" y="{y + 20:g}">{escape(box.title)}</text>'
        f'<text class="small" x="{middle:g}" y="{y + 36:g}">{escape(box.caption)}</text></g>'
    )
