"""report: one page that says what was learned, from what, and how well; Markdown, charts and results.json beside it."""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import Field

from gpt1.report.sources import Source
from stages.contract import Artifact, Context, Settings, Stage


class ReportSettings(Settings):
    title: str = Field("GPT-1", min_length=1, max_length=100, description="The heading of the report.")
    smoothing: float = Field(0.75, ge=0, lt=1, description="The share of the past in the smoothed training loss; 0: not smoothed.")
    sample_steps: int = Field(4, ge=2, le=100, description="At how many points of pre-training samples of text are shown, at most.")


class Report(Stage):
    """Reads summaries and small files of every cell it needs. Whatever the workflow does not have is left out."""

    settings_model = ReportSettings
    requires = ("pretrain",)
    accepts = ("*",)

    def run(self, settings: ReportSettings, context: Context) -> None:
        from gpt1.report.curves import draw, standalone
        from gpt1.report.facts import gather, to_json
        from gpt1.report.figures import charts
        from gpt1.report.page import Content, html, markdown
        from gpt1.report.pretraining import samples

        sources = [_source(artifact) for artifact in context.inputs()]
        facts = gather(sources)
        shown = charts(sources, facts, settings.smoothing)
        drawings = {chart.name: draw(chart) for chart in shown}
        written = {source.cell: points for source in sources if (points := samples(source, settings.sample_steps))}
        content = Content(settings.title, facts, shown, drawings, written)
        pages = {"report.html": html(content), "report.md": markdown(content), "results.json": to_json(facts)}
        pages |= {f"figures/{name}.svg": standalone(svg) for name, svg in drawings.items()}
        for name, text in pages.items():
            with context.open(name) as file:
                file.write(text.encode("utf-8"))
        context.summary(_summary(facts))
        for sentence in facts["verdict"]:
            context.say(sentence)


def _source(artifact: Artifact) -> Source:
    files = {name: file.path for name, file in artifact.files.items() if not file.volatile}
    settings = _semantic(artifact)
    return Source(artifact.stage, artifact.cell, artifact.fingerprint, artifact.digest, settings, artifact.summary, files)


def _semantic(artifact: Artifact) -> dict[str, Any]:
    """The settings without those that only say where or how fast: paths of this machine have no place in a report."""
    fields = importlib.import_module(f"stages.{artifact.stage}").STAGE.settings_model.model_fields
    extras = {name: field.json_schema_extra for name, field in fields.items()}
    placed = {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get("placement")}
    return {name: value for name, value in artifact.settings.items() if name not in placed}


def _summary(facts: dict[str, Any]) -> dict[str, Any]:
    """The headline's figures."""
    from gpt1.report.tasks import clearly_better

    found = {f"held_out_perplexity {cell['cell']}": cell["held_out_perplexity"] for cell in facts["pretraining"]["cells"]}
    found |= {f"{name}_perplexity": facts["pretraining"][f"{name}_perplexity"] for name in ("unigram", "bigram")}
    found |= {"tasks": len(facts["tasks"]), "tasks_above_baseline": len(clearly_better(facts["tasks"]))}
    return {name: value for name, value in found.items() if value is not None}


STAGE = Report()
