"""The charts of the report: what each shows, and line charts as SVG text.

The same numbers give the same bytes, and colors follow the page (light or dark). A chart without
lines is left out.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from gpt1.report.collect import METRICS, PERPLEXITY, Collection
from gpt1.report.run_cost import THROUGHPUT
from gpt1.report.sources import of_kind

COLORS = {"#000001": "--ink", "#000002": "--muted", "#000003": "--rule"}
COLORS |= {f"#0000{n + 16:02x}": f"--line-{n}" for n in range(6)}
"""Colors the charts are drawn with, and the page's variables that take their place."""
INK, MUTED, RULE, *LINES = COLORS
STYLE = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
PALETTE = STYLE[: STYLE.index("* {")]
"""The page's variables, for a chart in a file of its own."""


@dataclass(frozen=True)
class Line:
    """One curve.

    `faint`: the raw values behind a smoothed curve; `dots`: few points, each shown; `dashed`:
    compared with the main one.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 0
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
    """One chart: `name` is a file name's stem and unique in a page; `title` says what is drawn."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()
    log_y: bool = False
    width: float = 5.4
    """Inches, as the height."""
    height: float = 2.6


# What is drawn


def charts(report: Collection, smoothing: float) -> list[Chart]:
    """All charts of what the records' content decides, in the order of the page; `smoothing` is the
    weight of the past in the smoothed loss.
    """
    title = "Training loss (raw, smoothed) and held-out loss"
    loss = _curves(report, "loss", title, "loss (nats)")
    held_out = [replace(line, label=f"{line.label}, held-out", dashed=True, dots=len(line.x) <= 40)
                for line in _curves(report, "validation_loss", "", "").lines]
    both = [(replace(line, label=f"{line.label}, raw", faint=True),
             replace(line, y=smooth(line.y, smoothing))) for line in loss.lines]
    found = [
        perplexity_chart(report),
        replace(loss, lines=(*(line for pair in both for line in pair), *held_out)),
        _small(_curves(report, "lr", "Learning rate", "learning rate"), "learning-rate"),
        _small(_curves(report, "gradient_norm", "Gradient norm before clipping", "gradient norm"),
               "gradient-norm"),
        _zero_shot(report), _normalized(report), _transfer(report.transfer),
        sentence_chart(report.corpus["audit"]),
    ]  # fmt: skip
    return [chart for chart in found if chart.lines]


def headline_chart(report: Collection) -> Chart:
    """The held-out perplexity, small, for the first screen."""
    return replace(perplexity_chart(report), name="headline", y_label="", width=3.4, height=2.15)


def throughput_chart(report: Collection) -> Chart:
    """Tokens per second over pre-training: it depends on the machine, so only volatile files have
    it.
    """
    chart = _curves(report, "tokens_per_second", "Throughput", "tokens/s", THROUGHPUT)
    return _small(chart, "throughput")


def perplexity_chart(report: Collection) -> Chart:
    """Held-out perplexity, with the n-gram models of the same text."""
    title = "Perplexity on held-out books during pre-training"
    chart = _curves(report, PERPLEXITY, title, "held-out perplexity")
    known = ((name, report.pretraining[f"{name}_perplexity"]) for name in ("unigram", "bigram"))
    return replace(
        chart, name="perplexity", log_y=True,
        marks=tuple(Mark(name, value) for name, value in known if value),
        lines=tuple(replace(line, dots=len(line.x) <= 40) for line in chart.lines),
    )  # fmt: skip


def sentence_chart(audit: Mapping[str, Any]) -> Chart:
    """The share of sentences by their number of words, up to 80."""
    sentences = audit.get("sentences") or {"number": 0, "distribution": []}
    shares = [(row["words"], 100 * row["sentences"] / sentences["number"])
              for row in sentences["distribution"] if 1 <= row["words"] <= 80]
    lines = (_line("sentences", shares, 0),) if shares else ()
    return Chart("sentence-lengths", "Words per sentence", "words", "sentences (%)", lines)


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


def _line(label: str, points: Iterable[tuple[float, float]], color: int, **how: bool) -> Line:
    x, y = zip(*points, strict=True)
    return Line(label, x, y, color, **how)


def _curves(report: Collection, key: str, title: str, label: str, file: str = METRICS) -> Chart:
    """A line for each pre-training job."""
    found = {
        job.cell: [(row["step"], row[key]) for row in job.rows(file) if row.get(key) is not None]
        for job in of_kind(report.sources, "pretrain")
    }
    lines = (_line(cell, points, n) for n, (cell, points) in enumerate(found.items()) if points)
    return Chart(key, title, "step", label, tuple(lines))


def _small(chart: Chart, name: str) -> Chart:
    return replace(chart, name=name, width=3.6, height=2.1)  # three of them stand in a row


def _zero_shot(report: Collection) -> Chart:
    lines = _of_tasks(report, lambda _, point: point["score"])
    return Chart(
        "zero-shot", "Zero-shot score over pre-training", "pre-training step", "score (%)", lines,
        _baselines(report.zero_shot),
    )


def _normalized(report: Collection) -> Chart:
    """The paper's figure 2, right; a task without an earlier model has no 1."""
    lines = _of_tasks(
        report,
        lambda task, point: None if task["normalized_against"] == "100" else point["normalized"],
    )
    title = "Zero-shot score between random guess (0) and the best earlier single model (1)"
    return Chart(
        "zero-shot-normalized", title, "pre-training step", "normalized score", lines
    )


def _of_tasks(report: Collection, value: Callable[[Any, Any], float | None]) -> tuple[Line, ...]:
    lines = []
    for n, task in enumerate(task for task in report.zero_shot if task["points"]):
        scores = [(point["step"], value(task, point)) for point in task["points"]]
        points = [(step, score) for step, score in scores if score is not None]
        model = {"gpt": "", "lstm": ", LSTM"}.get(task["model"], f", {task['model']}")
        if points:
            name = f"{task['title']}{model}"
            lines.append(_line(name, points, n, dots=True, dashed=bool(model)))
    return tuple(lines)


def _transfer(rows: Sequence[Mapping[str, Any]]) -> Chart:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(" ".join(filter(None, (row["title"], row["variant"]))), []).append(row)
    lines = []
    for n, (name, group) in enumerate(groups.items()):
        for split, key in (("dev", "score"), ("train", "train_score")):
            points = [(row["num_layers_transferred"], row[key]) for row in group
                      if row[key] is not None]
            if points:
                one = _line(f"{name}, {split}", points, n, dots=True, dashed=split == "train")
                lines.append(one)
    title = "Score by the number of transferred layers"
    return Chart(
        "transfer", title, "transferred layers", "score (%)", tuple(lines), _baselines(rows)
    )


def _baselines(rows: Sequence[Mapping[str, Any]]) -> tuple[Mark, ...]:
    values = sorted({row["baseline"] for row in rows} - {None})
    return tuple(Mark(f"baseline {value:.1f}", value) for value in values)


# How it is drawn


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


def standalone(svg: str) -> str:
    """A drawn chart as a file of its own, with the colors it needs."""
    start = svg.index(">") + 1
    return f"{svg[:start]}<style>{PALETTE}svg {{ font-family: sans-serif; }}</style>{svg[start:]}"


def _plot(axes, chart: Chart) -> None:  # type: ignore[no-untyped-def]  # matplotlib's Axes, which must not be imported early
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9 if chart.width > 4 else 5, integer=True))
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
        )
        axes.yaxis.set_minor_formatter(NullFormatter())
    for line in chart.lines:
        axes.plot(
            line.x, line.y, color=LINES[line.color % len(LINES)],
            label=None if line.faint else line.label, linewidth=0.8 if line.faint else 1.9,
            alpha=0.35 if line.faint else 1, marker="o" if line.dots else None, markersize=4,
            markerfacecolor="none" if line.dashed else None,
            linestyle=(0, (4, 3)) if line.dashed else "-",
        )  # fmt: skip
    for mark in chart.marks:
        axes.axhline(mark.y, color=MUTED, linewidth=1, dashes=(4, 3))
        axes.annotate(
            mark.label, (1, mark.y), xycoords=("axes fraction", "data"), xytext=(-2, 3),
            textcoords="offset points", ha="right", va="bottom", color=MUTED, fontsize=8,
        )  # fmt: skip
    if sum(not line.faint for line in chart.lines) > 1:
        axes.legend(frameon=False, fontsize=8, handlelength=4)


def _clean(svg: str, title: str) -> str:
    """From a file to an element: no prologue, no fixed size, no ids that nothing refers to, colors
    as variables, a title to read out.
    """
    svg = svg[svg.index("<svg") :]
    # matplotlib's own styles would style the whole page
    styles = r"<defs>\s*<style.*?</style>\s*</defs>"
    for part in (r"<metadata>.*?</metadata>", r"<!--.*?-->", styles):
        svg = re.sub(rf"{part}\s*", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for color, variable in COLORS.items():
        svg = svg.replace(color, f"var({variable})")
    svg = re.sub(r"font: (\d+(?:\.\d+)?px) [^;\"]*", r"font-size: \1", svg)  # the page's font
    head = re.search(r'viewBox="([^"]+)"', svg)
    box = head[1] if head else "0 0 389 187"
    opening = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="{box}" role="img">'
    )
    return f"{opening}<title>{escape(title)}</title>{svg[svg.index('>') + 1 :]}".rstrip() + "\n"
