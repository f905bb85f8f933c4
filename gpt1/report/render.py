"""The report as one HTML page that needs nothing else, and as Markdown; the audit's own page; the
templates' environment.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt1 import format as wording
from gpt1.report.charts import STYLE, Chart, draw, sentence_chart
from gpt1.report.collect import Collection, main_settings
from gpt1.report.sources import of_kind
from gpt1.report.summary import answers, setup
from gpt1.report.tables import CLEAR
from gpt1.terminal import clean, clean_value

if TYPE_CHECKING:
    from jinja2 import Environment

PAPER_PERPLEXITY = 18.4  # "on this corpus", section 4.1; the paper does not say if it was held out


@dataclass(frozen=True)
class Page:
    """What the report's pages show.

    `drawings`: SVG text by chart name; `samples`: of each pre-training job by step; `workflow`: the
    picture of the workflow, or nothing; `previous`: name of the run before, and the figures that
    both runs have (gpt1.report.summary.compare); `copied`: the share of held-out text that occurs
    in the training books (gpt1.report.copied).
    """

    title: str
    report: Collection
    charts: Sequence[Chart]
    drawings: Mapping[str, str]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    workflow: str = ""
    previous: tuple[str, Sequence[Mapping[str, Any]]] = ("", ())
    copied: float | None = None

    def html(self) -> str:
        """One page: no scripts, nothing from the network."""
        return self._render("page.html.j2")

    def markdown(self) -> str:
        """The same facts for a terminal or a repository's page; its pictures are the files in
        figures/.
        """
        return self._render("page.md.j2")

    def _render(self, template: str) -> str:
        report = self.report
        return environment().get_template(template).render(
            vars(self), cost=report.cost, answers=answers(report), style=STYLE,
            bars=_bars(report.pretraining), clear=CLEAR, paper_perplexity=PAPER_PERPLEXITY,
            missing=wording.MISSING, audit=report.corpus["audit"],
            setup=setup(report.cost),
            drawing=self.drawings.get("sentence-lengths", ""),
            settings={one.cell: main_settings(one) for one in of_kind(report.sources, "pretrain")},
        )  # fmt: skip


def corpus_page(audit: Mapping[str, Any]) -> str:
    """audit.html, which needs nothing else."""
    chart = sentence_chart(audit)
    return environment().get_template("audit.html.j2").render(
        audit=audit, drawing=draw(chart) if chart.lines else "", style=STYLE,
        missing=wording.MISSING,
    )  # fmt: skip


def environment() -> Environment:
    """The templates of this folder, with the filters that they use."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=select_autoescape(enabled_extensions=("html.j2",)), finalize=clean_value,
    )  # fmt: skip
    found.filters |= {
        "number": wording.number, "short": wording.short, "points": wording.points,
        "signed": wording.signed, "span": wording.span, "change": _change, "cell": _markdown_cell,
        "line": markdown_line, "settings": _settings_line, "paper": _paper_figure, "mark": _mark,
        "code": _code,
    }  # fmt: skip
    return found


def _bars(pretraining: Mapping[str, Any]) -> list[tuple[str, float, float, bool]]:
    """(name, perplexity, width in per cent of the largest, whether it is a model of ours), the
    best first.
    """
    rows = [(cell["cell"], cell["held_out_perplexity"], True) for cell in pretraining["cells"]]
    rows += [(f"{name} model", pretraining[f"{name}_perplexity"], False)
             for name in ("bigram", "unigram")]
    known = sorted((row for row in rows if row[1]), key=lambda row: row[1])
    return [(name, value, 100 * value / known[-1][1], ours) for name, value, ours in known]


# Filters


def _change(value: float) -> str:
    """A difference with its sign; nothing for none."""
    if isinstance(value, int):
        return f"{value:+,}" if value else ""
    return f"{value:+.4g}" if value else ""


def markdown_line(text: Any) -> str:
    """One line in which Markdown's own characters mean themselves."""
    return "".join("\\" + c if c in "\\`*_[]<>#" else c for c in " ".join(str(text).split()))


def _markdown_cell(text: Any) -> str:
    """Text that cannot break a table."""
    return markdown_line(text).replace("|", "\\|")


def _settings_line(settings: Mapping[str, Any]) -> str:
    """`key=value, key=value` of the settings that say something; nested ones as JSON."""
    return ", ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in settings.items()
        if value not in (None, "", [], {})
    )


def _paper_figure(row: Mapping[str, Any]) -> str:
    """The paper's figure for a row's task; those of its parts where the paper gives only these."""
    if row["paper"] is None and row["paper_groups"]:
        return " / ".join(wording.points(value) for value in row["paper_groups"].values())
    return wording.points(row["paper"])


def _code(text: str) -> str:
    """HTML in which text between backticks is code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(clean(text)))))


def _mark(row: Mapping[str, str], name: str) -> str:
    """HTML of a sample's text `before` or `after` a rule, with what the other lacks marked, and
    control characters there made visible.
    """
    from markupsafe import Markup

    texts = {key: re.findall(r"\w+|\s|.", row[key]) for key in ("before", "after")}
    start, tag = (0, "del") if name == "before" else (2, "ins")
    html = Markup()
    matcher = difflib.SequenceMatcher(None, texts["before"], texts["after"], autojunk=False)
    for kind, *ends in matcher.get_opcodes():
        text = "".join(texts[name][ends[start] : ends[start + 1]])
        if text and kind != "equal":
            shown = "".join(_VISIBLE.get(c) or (c if c.isprintable() else f"U+{ord(c):04X}")
                            for c in text)
            html += Markup(f"<{tag}>{{}}</{tag}>").format(shown)
        else:
            html += clean(text)
    return html


_VISIBLE = {"\r": "\\r", "\n": "\\n\n", "\t": "\\t"}
