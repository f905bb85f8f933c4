"""The report: its figures are the records', the same bytes each time, whatever a workflow has."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gpt1.report.curves import Chart, Line, draw
from gpt1.report.distance import share
from gpt1.tasks.glue import FIGURES
from gpt1.tasks.table import TASKS
from gpt1.wording import number, short, span
from pipeline.plan import Plan
from stages.contract import Artifact
from stages.report import ReportSettings
from tests.conftest import ROOT
from tests.e2e.workflow import MINI
from tests.pipeline.inline import plan_of
from tests.stages.report_samples import Workshop
from tests.stages.runs import digests, document, lines, made, run_stage

SVG = "{http://www.w3.org/2000/svg}"
SECTIONS = {"pre-training", "tasks", "transfer", "zero-shot", "samples", "corpus", "provenance"}


def report(store: Path, inputs: Sequence[Artifact], run: str = "", title: str = "") -> Artifact:
    return run_stage(ReportSettings(title=title or "GPT-1"), inputs, store, run=run)


def results(artifact: Artifact) -> dict[str, Any]:
    return document(artifact, "results.json")


def page(artifact: Artifact) -> tuple[str, set[str]]:
    """The page's text and the ids of its elements; it fetches nothing and runs nothing."""
    html = artifact.path("report.html").read_text()
    links = re.findall(r'\b(?:xlink:href|href|src)="([^"]*)"', html)
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert not re.search(r"<(?:script|iframe|object)|@import|url\((?!#)", html)
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    return " ".join(unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html)).split()), set(ids)


def boxes(artifact: Artifact) -> list[list[str | None]]:
    """The texts of each box in the picture of the workflow."""
    drawn = ElementTree.parse(artifact.path("figures/workflow.svg"))
    return [[one.text for one in group.iter(f"{SVG}text")] for group in drawn.iter(f"{SVG}g")]


@pytest.fixture(scope="module")
def golden(golden_run: Path) -> Plan:
    """The plan of the golden run, of which all is done."""
    return plan_of(MINI, golden_run)


def scores_of(plan: Plan, stage: str) -> list[dict[str, Any]]:
    names = [name for name, one in plan.entries.items() if one.cell.uses == stage]
    return [document(made(plan, name), "scores.json") for name in names]


@pytest.mark.slow
def test_every_figure_is_that_of_the_records(golden: Plan) -> None:
    found, pretrain = results(made(golden, "report")), made(golden, "pretrain")
    [cell] = found["pretraining"]["cells"]
    perplexity, name = pretrain.summary["validation_perplexity"], "validation_perplexity"
    unigram = made(golden, "shard").summary["unigram_perplexity"]
    assert cell["held_out_perplexity"] == perplexity
    assert cell["share_of_unigram"] == perplexity / unigram
    curve = [(r["step"], r[name]) for r in lines(pretrain, "metrics.jsonl") if name in r]
    assert [(point["step"], point["perplexity"]) for point in cell["curve"]] == curve
    assert len(found["tasks"]) == 2
    for row in found["tasks"]:
        scores = [one for one in scores_of(golden, "finetune") if one["task"] == row["task"]]
        values = [one["values"]["accuracy"] for one in scores]
        spread = [row[name] for name in ("runs", "lowest", "highest", "score")]
        assert spread == [2, min(values), max(values), statistics.median(values)]
        above = (row["score"] - row["baseline"]) / row["standard_error"]
        assert row["errors_above_baseline"] == pytest.approx(above)
    transfer = {row["transferred"]: row["score"] for row in found["transfer"]}
    scores = scores_of(golden, "transfer")
    assert transfer == {one["transferred"]: one["values"]["accuracy"] for one in scores}
    [zero_shot] = found["zero_shot"]
    curve = [(r["step"], r["accuracy"]) for r in lines(made(golden, zero_shot["cell"]), "curve")]
    assert [(point["step"], point["score"]) for point in zero_shot["points"]] == curve
    assert found["corpus"]["rejected"] == made(golden, "clean").summary["rejected"]


@pytest.mark.slow
def test_the_page_needs_no_network_and_shows_what_ran(golden: Plan) -> None:
    artifact, count = made(golden, "report"), len(golden.entries) - 1
    (text, ids), making = page(artifact), document(artifact, "making.json")
    assert ids >= SECTIONS
    assert making["made"] + making["taken"] == count
    assert f"{making['made']} ran, {making['taken']} cached" in text
    for cell in making["cells"]:
        about = made(golden, cell["cell"]).made_by
        assert cell["seconds"] == about["seconds"]
        assert cell["made"] == (about["run"] == making["run"])
    rows = lines(made(golden, "pretrain"), "throughput")
    speed = sorted(row["tokens_per_second"] for row in rows)[len(rows) // 2]
    assert making["speed"]["pretrain"]["tokens_per_second"] == speed
    for file in artifact.under("figures/"):
        assert ElementTree.parse(file.path).getroot().tag == f"{SVG}svg"
    labels = {box[0] for box in boxes(artifact) if box}
    assert labels >= {"ingest", "pretrain", "finetune x4", "transfer x3", "export"}


@pytest.mark.slow
def test_the_same_bytes_again_elsewhere(golden: Plan, golden_run: Path, tmp_path: Path) -> None:
    inputs = [made(golden, name) for name in golden.entries["report"].cell.needs]
    again = report(tmp_path, inputs, run="another run")
    assert digests(again) == digests(made(golden, "report"))
    assert document(again, "making.json")["made"] == 0
    text = "".join(file.path.read_text() for file in again.files.values())
    assert not [path for path in (golden_run, tmp_path, ROOT) if str(path) in text]


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [
        ("pretrain", ["Held-out perplexity 121.4 after 400 updates."]),
        ("corpus pretrain", ["23 % of the unigram model's 531.7 and below the bigram model's"]),
        ("pretrain tasks", ["Held-out", "2 of 2 tasks beat"]),
        ("pretrain lstm", ["Pretrain: held-out", "Pretrain[lstm]: held-out"]), ("nothing", []),
    ],
)
def test_what_is_missing_is_left_out(kinds: str, verdict: list[str], work: Workshop) -> None:
    everything = {
        "corpus": work.corpus(), "pretrain": [work.pretrain()], "tasks": work.tasks(),
        "lstm": [work.pretrain("pretrain[lstm]", 150.0, model="lstm")],
        "nothing": [work.artifact("pretrain", "pretrain[untrained]")],
    }  # fmt: skip
    inputs = [one for kind in kinds.split() for one in everything[kind]]
    artifact = report(work.folder, inputs)
    (text, ids), said = page(artifact), results(artifact)["verdict"]
    assert [part in one for part, one in zip(verdict, said, strict=True)] == [True] * len(said)
    assert ids & {"tasks", "zero-shot"} == ({"tasks", "zero-shot"} if "tasks" in kinds else set())
    assert ("No stage of this workflow read books." in text) == ("corpus" not in kinds)
    assert ("No model was evaluated" in text) == (verdict == [])


def test_what_cannot_be_compared_and_what_is_secret(work: Workshop, tmp_path: Path) -> None:
    source = ["s3://key:secret@bucket/books?token=1", "/home/me/mine.zip"]
    inputs = [*work.corpus(source), work.pretrain(), *work.tasks()]
    artifact = report(tmp_path, inputs, title="Mine & <yours>")
    text, _ = page(artifact)
    expected = ["18.4 on BooksCorpus without saying that it was held out", "Mine & <yours>"]
    expected += ["QNLI in its second version", "she looked at him & said <b>"]
    expected += ["s3://bucket/books, The folder or file 'mine.zip'"]
    assert not [words for words in expected if words not in text]
    files = "".join(file.path.read_text() for file in artifact.files.values())
    assert not [word for word in ("secret", "token=1", "/home/me") if word in files]


def test_what_this_run_made_and_what_it_took(work: Workshop, tmp_path: Path) -> None:
    """An earlier run made the corpus, this one pre-trained on two ranks with a GPU each."""
    about: dict[str, Any] = {"seconds": 10.0, "finished": 10.0, "resources": {}}
    corpus = [replace(one, made_by={**about, "run": "earlier"}) for one in work.corpus()]
    pretrain, name = work.pretrain(), "throughput.jsonl"
    files = {**pretrain.files, name: replace(pretrain.files[name], volatile=True)}
    about |= {"run": "now", "started": 2.0, "resources": {"workers": 2, "gpus": 1.0}}
    about["inputs"] = {"shard": "0", "encode": "0"}  # the latter is no input of the report
    inputs = [*corpus, replace(pretrain, files=files, made_by=about)]
    now, later = (report(tmp_path / run, inputs, run=run) for run in ("now", "later"))
    found = document(now, "making.json")
    assert [found[name] for name in ("made", "taken", "wall_seconds")] == [1, 4, 8.0]
    assert [found[f"{name}_seconds"] for name in ("core", "gpu", "all_core")] == [20.0, 20.0, 60.0]
    days = pytest.approx(1_638_400 * 6e9 / 1030 / 86400e15)
    assert found["speed"]["pretrain"] == {"tokens_per_second": 1020, "petaflop_days": days}
    assert "1 ran, 4 cached" in page(now)[0]
    assert ["shard", "cached", "10.0 s", "core 10.0 s"] in boxes(now)
    assert ["pretrain", "made", "10.0 s", "GPU 20.0 s"] in boxes(now)
    assert now.digest == later.digest


def of_paper(work: Workshop, task: str, seed: int, shift: float, variant: str = "full") -> Artifact:
    """A cell of which every metric is the paper's plus `shift`."""
    metric = TASKS[task].metrics[0]
    values = {name: value + shift for name, value in TASKS[task].paper.items()}
    values.setdefault(metric, sum(values.values()) / len(values))
    more = {"metric": metric, "values": values, "train_rows": 100, "official_rows": {"train": 900}}
    return work.scored({"task": task, "variant": variant, "seed": seed}, 0.0, sample=True, **more)


def test_the_paper_s_tables_with_our_medians(work: Workshop, tmp_path: Path) -> None:
    shifts = [("rte", 1, -9.0), ("rte", 2, 3.0), ("rte", 3, 1.0), ("cola", 1, 0.5)]
    inputs = [work.pretrain(), *(of_paper(work, *row) for row in shifts)]
    inputs.append(of_paper(work, "rte", 1, -5.0, "no_pretraining"))
    artifact = report(tmp_path, inputs)
    tables = {table["number"]: table for table in results(artifact)["tables"]}
    assert [number for number, table in tables.items() if table["ours"]] == [2, 4, 5]
    ours = [tables[2]["ours"][0]["values"][-1], tables[2]["difference"][-1], tables[2]["gain"][-1]]
    assert ours == pytest.approx([57.0, 1.0, 57.0 - 61.7])
    assert tables[4]["ours"][0]["values"][-1] is None  # nine tasks make a GLUE score, two do not
    rows = {row["name"]: row["values"][-1] for row in tables[5]["ours"]}
    assert rows == pytest.approx({"ours, full": 57.0, "ours, no_pretraining": 51.0})
    assert "From samples: RTE (100 of 900 training rows, 500 dev rows)." in page(artifact)[0]
    text = artifact.path("report.md").read_text().replace("\\", "")
    assert "| paper's GPT | 82.1 | 81.4 | 89.9 |" in text
    nine = report(tmp_path, [of_paper(work, task, 1, 0.0) for task in FIGURES])
    glue = next(table for table in results(nine)["tables"] if table["number"] == 4)
    assert glue["ours"][0]["values"][-1] == pytest.approx(72.8, abs=0.05)


def test_variants_and_a_user_s_task_are_rows(work: Workshop, tmp_path: Path) -> None:
    settings = [{"task": "mrpc", "lm_weight": w, "seed": s} for w in (0.0, 0.5) for s in (1, 2)]
    title = {"title": "Weather or not", "kind": "classification"}
    inputs = [*(work.scored(one, 70.0 + one["seed"]) for one in settings)]
    inputs.append(work.scored({"task": "my.weather", "seed": 1}, 61.0, **title))
    rows = results(report(tmp_path, [work.pretrain(), *inputs]))["tasks"]
    expected = [("lm_weight=0.0", 2, 75.7), ("lm_weight=0.5", 2, 75.7), ("", 1, None)]
    assert [(row["variant"], row["runs"], row["paper"]) for row in rows] == expected
    assert [rows[2][name] for name in ("task", *title)] == ["my.weather", *title.values()]


def test_a_users_matplotlibrc_changes_nothing() -> None:
    import matplotlib as mpl

    chart = Chart("x", "A title", "update", "loss", (Line("a", [1, 2, 3], [3.0, 2.0, 1.0]),))
    before = draw(chart)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "figure.facecolor": "red"}):
        assert draw(chart) == before


def test_numbers_as_people_read_them() -> None:
    values = [1234567, 183.42, 0.0123456, None]
    assert list(map(number, values)) == ["1,234,567", "183.4", "0.01235", "–"]
    values = [812, 4190, 43100, 1_652_310, 116_534_784]
    assert list(map(short, values)) == ["812", "4,190", "43.1 k", "1.65 M", "117 M"]
    seconds = [44.63, 163, 11_100, 2_600_000, None]
    assert list(map(span, seconds)) == ["44.6 s", "2 min 43 s", "3 h 05 min", "30.1 days", "–"]
    shares = [1 / 107, 1 / 7_405_993, 0.98, 1.5]
    assert list(map(share, shares)) == ["1/107", "1/7.41 million", "98 %", "1.5 times"]
