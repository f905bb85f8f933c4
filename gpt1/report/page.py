"""The report as one HTML page that needs nothing else, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1 import format as wording
from gpt1.report.corpus_page import SENTENCE_LENGTHS, filters
from gpt1.report.curves import Chart
from gpt1.report.pretraining import PAPER_PERPLEXITY
from gpt1.report.provenance import settings_line
from gpt1.report.summary import answers
from gpt1.report.tasks import CLEAR
from gpt1.terminal import clean_value

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Content:
    """What the pages show.

    `drawings`: SVG text by chart name; `samples`: for each pre-training cell its samples by step.

    `making`: what `gpt1.report.run_cost` found, which makes the pages volatile; `origin`: where the
    books came from, in words; `workflow`: the picture of the workflow, or nothing.
    """

    title: str
    facts: Mapping[str, Any]
    charts: Sequence[Chart]
    drawings: Mapping[str, str]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    making: Mapping[str, Any]
    origin: str = ""
    workflow: str = ""


def html(content: Content) -> str:
    """One page: no scripts, nothing from the network."""
    return _render(
        "page.html.j2", content, style=(FOLDER / "style.css").read_text(encoding="utf-8")
    )


def markdown(content: Content) -> str:
    """The same facts for a terminal or a repository's page; its pictures are the files in
    figures/.
    """
    return _render("page.md.j2", content)


def environment() -> Environment:
    """The templates of this folder, with the filters that they use."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    found = Environment(
        loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        keep_trailing_newline=True, finalize=clean_value,
    )  # fmt: skip
    found.filters |= filters()
    found.filters |= {
        "points": wording.points, "signed": wording.signed, "settings": settings_line,
        "paper": paper_figure, "span": wording.span,
    }  # fmt: skip
    return found


def _render(template: str, content: Content, **more: Any) -> str:
    return environment().get_template(template).render(
        title=content.title, facts=content.facts, charts=content.charts, drawings=content.drawings,
        samples=content.samples, answers=answers(content.facts, content.making, content.origin),
        making=content.making, workflow=content.workflow, origin=content.origin,
        bars=bars(content.facts["pretraining"]), clear=CLEAR, paper_perplexity=PAPER_PERPLEXITY,
        missing=wording.MISSING, audit=content.facts["corpus"]["audit"],
        drawing=content.drawings.get(SENTENCE_LENGTHS, ""), **more,
    )  # fmt: skip


def bars(pretraining: Mapping[str, Any]) -> list[tuple[str, float, float, bool]]:
    """(name, perplexity, width in per cent of the largest, whether it is a model of ours), the
    best first.
    """
    rows = [(cell["cell"], cell["held_out_perplexity"], True) for cell in pretraining["cells"]]
    rows += [
        (f"{name} model", pretraining[f"{name}_perplexity"], False)
        for name in ("bigram", "unigram")
    ]
    known = sorted((row for row in rows if row[1]), key=lambda row: row[1])
    return [(name, value, 100 * value / known[-1][1], ours) for name, value, ours in known]


def paper_figure(row: Mapping[str, Any]) -> str:
    """The paper's figure for a row's task; those of its parts where the paper gives only these."""
    if row["paper"] is None and row["paper_groups"]:
        return " / ".join(wording.points(value) for value in row["paper_groups"].values())
    return wording.points(row["paper"])
