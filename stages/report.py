"""report: one page on the data, training and results, with Markdown, charts and results.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stages._sources import source_of
from stages.contract import Context, Settings, Stage


class ReportSettings(Settings):
    title: str = Field(
        "GPT-1", min_length=1, max_length=100, description="Heading of the report."
    )
    smoothing: float = Field(
        0.75, ge=0, lt=1,
        description="Weight of past values in the smoothed training loss; 0: no smoothing.",
    )
    sample_steps: int = Field(
        4, ge=2, le=100,
        description="Show text samples from at most N steps of pre-training.",
    )


class Report(Stage):
    """Reads summaries and small files of every cell it needs.

    Whatever the workflow does not have is left out.
    """

    # The pages tell durations and costs, so they are volatile; results.json and the other figures
    # are not
    version = 3  # seeds of one task are one row, whichever keeps its weights
    settings_model = ReportSettings
    requires = ("pretrain",)
    optional_inputs = ("*",)

    def run(self, settings: ReportSettings, context: Context) -> None:
        from gpt1.report.collect import gather, to_json
        from gpt1.report.curves import draw, standalone
        from gpt1.report.figures import charts, headline, throughput
        from gpt1.report.page import Content, html, markdown
        from gpt1.report.pretraining import samples
        from gpt1.report.run_cost import making_facts, picture
        from gpt1.report.sources import only

        sources = [source_of(artifact, context.fetch) for artifact in context.inputs()]
        facts, making = gather(sources), making_facts(sources, context.run)
        shown = charts(sources, facts, settings.smoothing)
        timed = [chart for chart in (throughput(sources),) if chart.lines]
        drawings = {chart.name: draw(chart) for chart in (*shown, *timed)}
        written = {
            source.cell: points
            for source in sources
            if (points := samples(source, settings.sample_steps))
        }
        workflow, small = picture(sources, making), headline(sources, facts)
        if small.lines:
            drawings[small.name] = draw(small)
        content = Content(
            settings.title, facts, [*shown, *timed], drawings, written, making,
            only(sources, "ingest").origin, workflow,
        )
        for name, text in {
            "results.json": to_json(facts),
            **{_figure(one.name): standalone(drawings[one.name]) for one in shown},
        }.items():
            with context.open(name) as file:
                file.write(text.encode("utf-8"))
        timely = {
            "report.html": html(content), "report.md": markdown(content),
            "making.json": to_json(making),
        }
        timely |= {_figure(one.name): standalone(drawings[one.name]) for one in timed}
        timely |= {_figure("workflow"): workflow} if workflow else {}
        for name, text in timely.items():
            context.output(name, volatile=True).write_text(text, encoding="utf-8")
        context.summary(_summary(facts))
        for sentence in facts["verdict"]:
            context.info(sentence)


def _figure(name: str) -> str:
    return f"figures/{name}.svg"


def _summary(facts: dict[str, Any]) -> dict[str, Any]:
    """The headline's figures."""
    from gpt1.report.paper_tables import MAIN
    from gpt1.report.tasks import clearly_better

    found = {
        f"val/perplexity/{cell['cell']}": cell["held_out_perplexity"]
        for cell in facts["pretraining"]["cells"]
    }
    found |= {
        f"{name}_perplexity": facts["pretraining"][f"{name}_perplexity"]
        for name in ("unigram", "bigram")
    }
    found |= {
        "tasks": len(facts["tasks"]),
        "tasks_above_baseline": len(clearly_better(facts["tasks"])),
    }
    found |= {
        f"score/{row['task']}": row["score"]
        for row in facts["tasks"]
        if row["variant_setting"] == MAIN
    }
    return {name: value for name, value in found.items() if value is not None}


STAGE = Report()
