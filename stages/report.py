"""report: one page on the data, training and results, with Markdown, charts and results.json."""

from __future__ import annotations

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
    """Reads summaries and small files of every job it needs.

    Whatever the workflow does not have is left out.
    """

    # The pages tell durations, costs and the previous run, so they are volatile; results.json and
    # the other figures are not
    version = 4  # bits per byte, and the perplexity before the first step
    settings_model = ReportSettings
    requires = ("pretrain",)
    optional_inputs = ("*",)

    def run(self, settings: ReportSettings, context: Context) -> None:
        from gpt1.report.charts import charts, draw, headline_chart, standalone, throughput_chart
        from gpt1.report.collect import collect, to_json
        from gpt1.report.dag import run_picture
        from gpt1.report.render import Page
        from gpt1.report.summary import compare

        report = collect([source_of(one, context.fetch) for one in context.inputs()], context.run)
        shown = charts(report, settings.smoothing)
        timed = [one for one in (throughput_chart(report),) if one.lines]
        small = [one for one in (headline_chart(report),) if one.lines]
        drawings = {chart.name: draw(chart) for chart in (*shown, *timed, *small)}
        headline, before = report.headline(), context.previous()
        page = Page(
            settings.title, report, [*shown, *timed], drawings,
            report.samples(settings.sample_steps), run_picture(report.sources, report.cost),
            (str(before.provenance.get("run")), compare(before.summary, headline))
            if before else ("", ()),
        )  # fmt: skip
        texts = {"results.json": to_json(report.results())}
        texts |= {_figure(one.name): standalone(drawings[one.name]) for one in shown}
        for name, text in texts.items():
            context.output(name).write_text(text, encoding="utf-8")
        volatile = {
            "report.html": page.html(), "report.md": page.markdown(),
            "making.json": to_json(report.cost),
            **{_figure(one.name): standalone(drawings[one.name]) for one in timed},
            **({_figure("workflow"): page.workflow} if page.workflow else {}),
        }  # fmt: skip
        for name, text in volatile.items():
            context.output(name, volatile=True).write_text(text, encoding="utf-8")
        context.summary(headline)
        for sentence in report.verdict():
            context.info(sentence)


def _figure(name: str) -> str:
    return f"figures/{name}.svg"


STAGE = Report()
