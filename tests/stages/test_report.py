"""The report: its figures are those of the stages' files, the same bytes each time, whatever the workflow has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from gpt1.report.curves import Chart, Line, draw, smooth
from gpt1.wording import number, short
from pipeline.context import Job, run_cell
from pipeline.store import Store
from stages.contract import Artifact, Resources
from stages.report import ReportSettings
from tests.stages.report_samples import Workshop


class Silent:
    """A reporter that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, text: str) -> None:
        self.said.append(text)

    def progress(self, done: float, total: float, unit: str, note: str = "") -> None: ...

    def log(self, step: int, values: Mapping[str, float]) -> None: ...


def report(folder: Path, inputs: Sequence[Artifact], **settings: object) -> Artifact:
    """Run the stage in a store of its own."""
    store = Store.at(folder)
    chosen = ReportSettings.model_validate(settings).model_dump()
    run_cell(Job(store, "report", "report", "0" * 64, {}, chosen, tuple(inputs), (), Resources()), Silent())
    made = store.artifact("report", "0" * 64)
    assert made is not None
    return made


def results(made: Artifact) -> dict:
    return json.loads(made.path("results.json").read_text())


class Checker(HTMLParser):
    """Open elements are closed in order, ids are unique, nothing is fetched."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found[name] or "" for name in ("href", "src", "xlink:href") if name in found]
        assert tag not in ("script", "iframe", "object")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(made: Artifact) -> Checker:
    page = Checker()
    page.feed(made.path("report.html").read_text())
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("#", "data:")) for link in page.links)
    return page


def test_the_figures_are_those_of_the_stages(tmp_path: Path) -> None:
    made = report(tmp_path / "store", Workshop(tmp_path / "work").everything())
    found = results(made)
    [cell] = found["pretraining"]["cells"]
    assert cell["held_out_perplexity"] == pytest.approx(121.4)
    assert cell["share_of_unigram"] == pytest.approx(121.4 / 531.7)
    assert [point["step"] for point in cell["curve"]] == list(range(50, 401, 50))
    assert found["verdict"][0] == (
        "Held-out perplexity 121.4 after 400 updates, 23 % of the unigram model's 531.7 and below the bigram model's 171.3."
    )
    assert found["verdict"][1].startswith("3 of 4 tasks beat")
    assert found["corpus"]["rejected"] == {"too_short": 2}
    assert made.summary["tasks_above_baseline"] == 3


def test_seeds_become_a_median_with_their_spread(tmp_path: Path) -> None:
    found = results(report(tmp_path / "store", Workshop(tmp_path / "work").everything()))
    author = next(row for row in found["tasks"] if row["task"] == "demo_author")
    assert (author["score"], author["lowest"], author["highest"], author["runs"]) == (62.5, 61.0, 66.0, 3)
    assert author["errors_above_baseline"] == pytest.approx((62.5 - 21.3) / 2.2)


def test_variants_of_a_task_are_rows_of_their_own(tmp_path: Path) -> None:
    work = Workshop(tmp_path / "work")
    cells = [
        work.scored("finetune", f"finetune[{weight},{seed}]", {"task": "mrpc", "lm_weight": weight, "seed": seed}, 70.0 + seed)
        for weight in (0.0, 0.5)
        for seed in (1, 2)
    ]
    rows = results(report(tmp_path / "store", [work.pretrain(), *cells]))["tasks"]
    assert [(row["variant"], row["runs"], row["paper"]) for row in rows] == [("lm_weight=0.0", 2, 75.7), ("lm_weight=0.5", 2, 75.7)]


def test_curves_of_transfer_and_zero_shot(tmp_path: Path) -> None:
    found = results(report(tmp_path / "store", Workshop(tmp_path / "work").everything()))
    assert [(row["transferred"], row["score"]) for row in found["transfer"]] == [(0, 52.0), (2, 60.0), (4, 71.0)]
    [task] = found["zero_shot"]
    assert [point["step"] for point in task["points"]] == [100, 200, 400]


def test_same_bytes_each_time_and_no_path_of_this_machine(tmp_path: Path) -> None:
    one = report(tmp_path / "one", Workshop(tmp_path / "here").everything())
    two = report(tmp_path / "two", Workshop(tmp_path / "there").everything())
    assert one.digest == two.digest
    for file in one.files.values():
        text = file.path.read_text()
        assert str(tmp_path) not in text
        assert "/home/someone" not in text  # a placement setting


def test_the_page_is_whole_and_needs_nothing(tmp_path: Path) -> None:
    page = checked(report(tmp_path / "store", Workshop(tmp_path / "work").everything(), title="Mine & <yours>"))
    assert "Mine & <yours>" in page.text
    assert "she looked at him & said <b>" in page.text
    assert {"pre-training", "tasks", "transfer", "zero-shot", "samples", "corpus", "provenance"} <= set(page.ids)


def test_what_is_no_figure_to_compare_with_is_said_to_be_none(tmp_path: Path) -> None:
    page = " ".join(report(tmp_path / "store", Workshop(tmp_path / "work").everything()).path("report.html").read_text().split())
    assert "18.4 on BooksCorpus without saying that it was held out" in page
    assert "QNLI in its second version" in page


def test_a_workflow_of_pretraining_alone(tmp_path: Path) -> None:
    made = report(tmp_path / "store", [Workshop(tmp_path / "work").pretrain()])
    page, found = checked(made), results(made)
    assert found["verdict"] == ["Held-out perplexity 121.4 after 400 updates."]
    assert found["tasks"] == found["transfer"] == found["zero_shot"] == []
    assert not {"tasks", "transfer", "zero-shot"} & set(page.ids)
    assert "No stage of this workflow read books." in page.text


def test_several_models(tmp_path: Path) -> None:
    work = Workshop(tmp_path / "work")
    cells = [work.pretrain(f"pretrain[{name}]", final, architecture=name) for name, final in (("gpt", 120.0), ("lstm", 150.0))]
    made = report(tmp_path / "store", [*work.corpus(), *cells])
    assert [sentence.split(":")[0] for sentence in results(made)["verdict"]] == ["Pretrain[gpt]", "Pretrain[lstm]"]
    assert "pretrain[lstm]" in made.path("figures/perplexity.svg").read_text()


def test_nothing_was_measured(tmp_path: Path) -> None:
    made = report(tmp_path / "store", [Workshop(tmp_path / "work").artifact("pretrain")])
    assert "No model was evaluated" in checked(made).text
    assert results(made)["pretraining"]["cells"][0]["held_out_perplexity"] is None


def test_charts_are_whole_xml_with_the_pages_colours(tmp_path: Path) -> None:
    made = report(tmp_path / "store", Workshop(tmp_path / "work").everything())
    drawn = made.under("figures/")
    assert {file.name for file in drawn} >= {"figures/loss.svg", "figures/perplexity.svg", "figures/transfer.svg"}
    for file in drawn:
        text = file.path.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "var(--ink)" in text or "var(--muted)" in text
        assert "dc:date" not in text


def test_a_users_matplotlibrc_changes_nothing() -> None:
    import matplotlib as mpl

    chart = Chart("x", "A title", "update", "loss", (Line("a", [1, 2, 3], [3.0, 2.0, 1.0]),))
    before = draw(chart)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "figure.facecolor": "red"}):
        assert draw(chart) == before


def test_smoothing_keeps_a_constant_and_follows_a_change() -> None:
    assert smooth([2.0, 2.0, 2.0], 0.9) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([0.0, 1.0], 0.5) == pytest.approx([0.0, 2 / 3])
    assert smooth([3.0, 1.0], 0.0) == [3.0, 1.0]


@pytest.mark.parametrize(("value", "text"), [(1234567, "1,234,567"), (183.42, "183.4"), (0.0123456, "0.01235"), (None, "–")])
def test_numbers_as_people_read_them(value: float | None, text: str) -> None:
    assert number(value) == text


def test_large_counts_are_short() -> None:
    assert [short(value) for value in (812, 4190, 43100, 1_652_310, 116_534_784)] == ["812", "4,190", "43.1 k", "1.65 M", "117 M"]


@pytest.mark.parametrize("wrong", [{"smoothing": 1.0}, {"sample_steps": 1}, {"title": ""}, {"colour": "red"}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError):
        ReportSettings.model_validate(wrong)
