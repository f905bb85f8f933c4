"""The audit's own page, and what it shares with the report: the picture of the sentence lengths,
the templates' filters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpt1 import format as wording
from gpt1.report.curves import Chart, Line, draw
from gpt1.terminal import clean_value

FOLDER = Path(__file__).parent
SENTENCE_LENGTHS = "sentence-lengths"
_SHOWN = 80


def sentence_chart(audit: Mapping[str, Any]) -> Chart:
    """The share of sentences by their number of words, up to 80; without lines where there is no
    audit.
    """
    sentences = audit.get("sentences") or {"number": 0, "distribution": []}
    rows = [row for row in sentences["distribution"] if 1 <= row["words"] <= _SHOWN]
    shares = [100 * row["sentences"] / sentences["number"] for row in rows]
    lines = (Line("sentences", [row["words"] for row in rows], shares),) if rows else ()
    return Chart(SENTENCE_LENGTHS, "Words per sentence", "words", "sentences (%)", lines)


def change(value: int) -> str:
    """A difference with its sign and groups of three; nothing for none."""
    return f"{value:+,}" if value else ""


def filters() -> dict[str, Callable[[Any], str]]:
    """What both pages' templates need."""
    return {
        "number": wording.number, "short": wording.short, "change": change, "cell": markdown_cell,
        "line": markdown_line,
    }


def audit_pages(audit: Mapping[str, Any]) -> dict[str, str]:
    """audit.html, which needs nothing else, and audit.md."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        keep_trailing_newline=True, finalize=clean_value,
    )  # fmt: skip
    environment.filters |= filters()
    chart = sentence_chart(audit)
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    values = {
        "audit": audit, "drawing": draw(chart) if chart.lines else "", "style": style,
        "missing": wording.MISSING,
    }
    markdown = "# The corpus: audit\n\n" + environment.get_template("corpus_page.md.j2").render(
        values
    )
    return {
        "audit.html": environment.get_template("audit.html.j2").render(values),
        "audit.md": markdown,
    }


def markdown_cell(text: Any) -> str:
    """Text that cannot break a table."""
    return markdown_line(text).replace("|", "\\|")


def markdown_line(text: Any) -> str:
    """One line in which Markdown's own characters mean themselves."""
    return "".join("\\" + c if c in "\\`*_[]<>#" else c for c in " ".join(str(text).split()))
