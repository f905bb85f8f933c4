"""Line charts as SVG text: the same bytes for the same numbers, and colours that follow the page
(light or dark).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

COLOURS = {"#000001": "--ink", "#000002": "--muted", "#000003": "--rule"}
COLOURS |= {f"#0000{n + 16:02x}": f"--line-{n}" for n in range(6)}
"""Colours the charts are drawn with, and the page's variables that take their place."""
INK, MUTED, RULE = list(COLOURS)[:3]
LINES = list(COLOURS)[3:]

STANDALONE = (
    "<style>svg{--ink:#1c1b19;--muted:#6b675f;--rule:#dedad2;--line-0:#1f5fa8;--line-1:#b4491f;--line-2:#2f7d4f;--line-3:#7a4fa3;"
    "--line-4:#a8790f;--line-5:#0f7f86;font-family:sans-serif}@media(prefers-color-scheme:dark){svg{--ink:#ecebe7;--muted:#a09c93;"
    "--rule:#3a3935;--line-0:#7db2f0;--line-1:#f0936a;--line-2:#7fcf9d;--line-3:#c3a1ea;--line-4:#e2bb5c;--line-5:#6fd0d6}}</style>"
)
"""Styles for a chart in a file of its own; in a page the page's own styles set the variables."""


@dataclass(frozen=True)
class Line:
    """One curve.

    `faint`: the raw values behind a smoothed curve; `dots`: few points, each shown; `dashed`:
    beside the main one.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    faint: bool = False
    dots: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A horizontal line to compare with, such as a baseline."""

    label: str
    y: float


@dataclass(frozen=True)
class Chart:
    """One chart: `name` is a file name's stem and must be unique in a page; `title` says what is
    drawn, in words.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()
    log_y: bool = False
    height: float = 2.6
    width: float = 5.4
    """Inches, as the height."""


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average with the start-up bias divided out; `weight` in [0, 1) is the
    share of the past.
    """
    smoothed, total, share = [], 0.0, 0.0
    for value in values:
        total = weight * total + (1 - weight) * value
        share = weight * share + (1 - weight)
        smoothed.append(total / share)
    return smoothed


def draw(chart: Chart) -> str:
    """The chart as one `<svg>` element, without time stamp and with ids that only this chart
    uses.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {  # Any: matplotlib's types want each key as a literal
        "svg.hashsalt": chart.name, "svg.fonttype": "none", "font.family": "DejaVu Sans",
        "font.size": 9, "axes.edgecolor": RULE, "axes.labelcolor": MUTED, "xtick.color": MUTED,
        "ytick.color": MUTED, "text.color": INK, "grid.color": RULE, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.linewidth": 0.6,
        "lines.solid_capstyle": "round", "xtick.major.size": 0, "ytick.major.size": 0,
        "ytick.minor.size": 0,
    }  # fmt: skip
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own matplotlibrc must not change the bytes
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(chart.width, chart.height), layout="constrained")
        _plot(figure.add_subplot(), chart)
        written = io.StringIO()
        FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None, "Creator": None})
    return _clean(written.getvalue(), chart.title)


def _plot(axes, chart: Chart) -> None:  # type: ignore[no-untyped-def]  # matplotlib's Axes, which must not be imported early
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9 if chart.width > 4 else 5, integer=True))
    if chart.log_y:
        _logarithmic(axes)
    for line in chart.lines:
        axes.plot(
            line.x, line.y, color=LINES[line.colour % len(LINES)],
            label=None if line.faint else line.label, linewidth=0.8 if line.faint else 1.9,
            alpha=0.35 if line.faint else 1, marker="o" if line.dots else None, markersize=4,
            linestyle="--" if line.dashed else "-",
        )  # fmt: skip
    for mark in chart.marks:
        axes.axhline(mark.y, color=MUTED, linewidth=1, dashes=(4, 3))
        axes.annotate(
            mark.label, (1, mark.y), xycoords=("axes fraction", "data"), xytext=(-2, 3),
            textcoords="offset points", ha="right", va="bottom", color=MUTED, fontsize=8,
        )  # fmt: skip
    if len([line for line in chart.lines if not line.faint]) > 1:
        axes.legend(frameon=False, fontsize=8)


def _logarithmic(axes) -> None:  # type: ignore[no-untyped-def]
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    )
    axes.yaxis.set_minor_formatter(NullFormatter())


def _clean(svg: str, title: str) -> str:
    """From a file to an element: no prologue, no fixed size, no ids nobody refers to, colours as
    variables, a title to read out.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL
    )  # would style the whole page
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: (\d+(?:\.\d+)?px) [^;\"]*", r"font-size: \1", svg)  # the page's font
    head = re.search(r'viewBox="([^"]+)"', svg)
    box = head[1] if head else "0 0 389 187"
    inside = svg[svg.index(">") + 1 :]
    opening = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="{box}" role="img">'
    )
    return f"{opening}<title>{_escape(title)}</title>{inside}".rstrip() + "\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def standalone(svg: str) -> str:
    """A drawn chart as a file of its own, with the colours it needs."""
    start = svg.index(">") + 1
    return svg[:start] + STANDALONE + svg[start:]
