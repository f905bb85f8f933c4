"""report: one page on the data, training and results, with Markdown, charts and results.json."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from gpt1.paths import FILE, is_url, path_of_uri
from gpt1.report.sources import Source
from gpt1.settings import not_fingerprinted
from stages._finetuning import Fetch
from stages.contract import Artifact, Context, Settings, Stage, StoredFile

PLACES = ("source", "init_from", "checkpoint")
"""Settings that say where outside files are."""


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
    version = 5  # the copied share of the samples
    settings_model = ReportSettings
    requires = ("pretrain",)
    optional_inputs = ("*",)

    def run(self, settings: ReportSettings, context: Context) -> None:
        from gpt1.report.charts import charts, draw, headline_chart, standalone, throughput_chart
        from gpt1.report.collect import collect, to_json
        from gpt1.report.copied import CopiedText
        from gpt1.report.dag import run_picture
        from gpt1.report.render import Page
        from gpt1.report.summary import compare

        report = collect([source_of(one, context.fetch) for one in context.inputs()], context.run)
        shown = charts(report, settings.smoothing)
        timed = [one for one in (throughput_chart(report),) if one.lines]
        small = [one for one in (headline_chart(report),) if one.lines]
        drawings = {chart.name: draw(chart) for chart in (*shown, *timed, *small)}
        headline, before = report.headline(), context.previous()
        copied = CopiedText.of(report.sources)
        page = Page(
            settings.title, report, [*shown, *timed], drawings,
            report.samples(settings.sample_steps, copied.share if copied else None),
            run_picture(report.sources, report.cost),
            (str(before.provenance.get("run")), compare(before.summary, headline))
            if before else ("", ()),
            copied.held_out_share() if copied else None,
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


# ---------------------------------------------------------------------------------------------
# Artifacts as plain values


class _Fetched(Mapping[str, Path]):
    """The paths of files by name, each fetched when it is asked for: few are read."""

    def __init__(self, files: Mapping[str, StoredFile], fetch: Fetch) -> None:
        self._files, self._fetch = files, fetch

    def __getitem__(self, name: str) -> Path:
        return self._fetch(self._files[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def source_of(artifact: Artifact, fetch: Fetch) -> Source:
    """The published files, settings and figures of a cell, without paths of this machine."""
    return Source(
        artifact.stage, artifact.cell, artifact.fingerprint, artifact.digest, _semantic(artifact),
        artifact.summary, _Fetched(artifact.files, fetch), artifact.provenance,
        _origin(artifact.settings),
    )  # fmt: skip


def _origin(settings: Mapping[str, Any]) -> str:
    """Where a stage read from: `embedded`, an address without what may be secret in it, the last
    name of a folder.
    """
    source = next((settings[name] for name in PLACES if settings.get(name)), ())
    words = []
    for one in [source] if isinstance(source, str) else list(source):
        if one == "embedded":
            words.append("Public-domain prose bundled with an installed package")
        elif is_url(name := public_place(one)):
            words.append(name)
        else:
            words.append(f"The folder or file {name!r}" if name else "A folder")
    return ", ".join(words)


def public_place(place: str) -> str:
    """An address without what may be secret in it; of a path the last name, empty where it has
    none.
    """
    if is_url(place) and not place.startswith(FILE):
        url = urlsplit(place)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
    path = path_of_uri(place) if place.startswith(FILE) else PurePath(place)
    return "" if path.name == ".." else path.name


def stage_named(kind: str) -> Stage:
    """The stage; a kind with a dot in its name is a module of somebody else's."""
    module = importlib.import_module(kind if "." in kind else f"stages.{kind}")
    found: Stage = module.STAGE
    return found


def _semantic(artifact: Artifact) -> dict[str, Any]:
    """The settings without those that only say where or how fast: paths of this machine have no
    place in a report.
    """
    settings = artifact.settings
    placed = not_fingerprinted(stage_named(artifact.stage).settings_model, settings)
    return {name: value for name, value in settings.items() if name not in placed}


STAGE = Report()
