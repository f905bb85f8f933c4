"""The workflow as text and as Mermaid source; `gpt1.report.dag` draws the picture."""

from __future__ import annotations

from gpt1.report.dag import COLOURS, OTHER, Cells, as_svg, boxes, css

__all__ = ["as_mermaid", "as_svg", "as_text"]


def as_text(cells: Cells) -> str:
    """A line a stage, indented by its depth, with its state and what it needs."""
    found = boxes(cells)
    left = max((2 * box.depth + len(box.title) for box in found), default=0)
    middle = max((len(box.caption) for box in found), default=0)
    lines = []
    for box in found:
        needs = f"<- {', '.join(box.needs)}" if box.needs else ""
        lines.append(
            f"{'  ' * box.depth + box.title:<{left}}  {box.caption:<{middle}}  {needs}".rstrip()
        )
    return "\n".join(lines) + "\n"


def as_mermaid(cells: Cells) -> str:
    """A flow chart for Markdown.

    Text colours are set with the fills, so that it reads in light and dark.
    """
    found = boxes(cells)
    names = {box.stage: f"n{index}" for index, box in enumerate(found)}
    lines = ["flowchart LR"]
    for box in found:
        title = box.title.replace('"', "#quot;")
        lines.append(f'  {names[box.stage]}["{title}<br/>{box.caption}"]:::{css(box.state)}')
        lines += [f"  {names[need]} --> {names[box.stage]}" for need in box.needs]
    for state in sorted({box.state for box in found}):
        lines.append(
            f"  classDef {css(state)} fill:{COLOURS.get(state, OTHER)[0]},stroke:#666,color:#111"
        )
    return "\n".join(lines) + "\n"
